//! Receivers of the journal's events, and the address for metrics: as typed and as meant.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// Who is told of the journal's events, and in which words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    pub name: String,
    pub to: Receiver,
    /// In the words of OCSF instead of the journal's own.
    pub ocsf: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    File { path: PathBuf },
    Syslog(Address),
    Otlp(Collector),
}

/// Where a receiver listens, and how it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `host:port`.
    pub host: String,
    pub tls: bool,
    /// Instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
}

/// An OpenTelemetry collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    pub address: Address,
    pub path: String,
}

/// Who gets numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Answers Prometheus here.
    pub listen: Option<SocketAddr>,
    pub otlp: Option<Collector>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportFile {
    name: String,
    to: To,
    #[serde(default)]
    format: Format,
    path: Option<PathBuf>,
    address: Option<String>,
    url: Option<String>,
    tls: Option<bool>,
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum To {
    File,
    Syslog,
    Otlp,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Journal,
    Ocsf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MetricsFile {
    listen: Option<SocketAddr>,
    otlp_url: Option<String>,
    ca_file: Option<PathBuf>,
}

/// Whoever reaches a loopback address may read what is told there, so it is numbers only.
pub(super) fn metrics(typed: MetricsFile, problems: &mut Vec<String>) -> Metrics {
    if let Some(listen) = typed.listen.filter(|listen| !listen.ip().is_loopback()) {
        problems.push(format!("metrics.listen: `{listen}` is not a loopback address"));
    }
    if typed.listen.is_some_and(|listen| listen.port() == 0) {
        problems.push("metrics.listen: 0 is not a port".into());
    }
    if typed.otlp_url.is_none() && typed.ca_file.is_some() {
        problems.push("metrics.ca_file: does nothing without otlp_url".into());
    }
    let otlp = typed.otlp_url.as_deref();
    let otlp =
        otlp.and_then(|url| collector("metrics.otlp_url", url, "/v1/metrics", typed.ca_file, problems));
    Metrics { listen: typed.listen, otlp }
}

pub(super) fn convert(typed: Vec<ExportFile>, problems: &mut Vec<String>) -> Vec<Export> {
    super::file::unique("exports", typed.iter().map(|export| export.name.as_str()), problems);
    typed.into_iter().filter_map(|export| one(export, problems)).collect()
}

fn one(typed: ExportFile, problems: &mut Vec<String>) -> Option<Export> {
    let key = format!("exports.{}", typed.name);
    super::file::name_is_plain("exports.name", &typed.name, problems);
    let (to, is_file) = (typed.to, typed.to == To::File);
    let useless = [
        ("path", typed.path.is_some(), is_file),
        ("address", typed.address.is_some(), to == To::Syslog),
        ("url", typed.url.is_some(), to == To::Otlp),
        ("tls", typed.tls.is_some(), to == To::Syslog),
        ("ca_file", typed.ca_file.is_some(), !is_file),
    ];
    let found = problems.len();
    for (name, given, wanted) in useless {
        if given && !wanted {
            problems.push(format!("{key}.{name}: does nothing for this kind of receiver"));
        }
    }
    let missing = |name: &str| format!("{key}.{name}: missing");
    let to = match to {
        To::File => match typed.path {
            Some(path) if path.is_absolute() => Some(Receiver::File { path }),
            Some(path) => {
                problems.push(format!("{key}.path: `{}` is not an absolute path", path.display()));
                None
            }
            None => {
                problems.push(missing("path"));
                None
            }
        },
        To::Syslog => match typed.address {
            Some(address) => {
                // In the clear only when that is said outright: what is exported holds statements and their values.
                if typed.tls.is_none() && !is_local(&address) {
                    problems.push(format!("{key}.tls: missing; say `true`, or `false` outright"));
                }
                let tls = typed.tls.unwrap_or(false);
                if !tls && typed.ca_file.is_some() {
                    problems.push(format!("{key}.ca_file: does nothing without tls"));
                }
                let host = with_port(&format!("{key}.address"), address, problems);
                Some(Receiver::Syslog(Address { host, tls, ca_file: typed.ca_file }))
            }
            None => {
                problems.push(missing("address"));
                None
            }
        },
        To::Otlp => {
            if typed.url.is_none() {
                problems.push(missing("url"));
            }
            let url = typed.url.as_deref()?;
            collector(&format!("{key}.url"), url, "/v1/logs", typed.ca_file, problems).map(Receiver::Otlp)
        }
    };
    let ocsf = typed.format == Format::Ocsf;
    to.filter(|_| problems.len() == found).map(|to| Export { name: typed.name, to, ocsf })
}

fn collector(
    key: &str,
    url: &str,
    usual: &str,
    ca_file: Option<PathBuf>,
    problems: &mut Vec<String>,
) -> Option<Collector> {
    let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => {
            problems
                .push(format!("{key}: `{}` begins with neither https:// nor http://", url.escape_debug()));
            return None;
        }
    };
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) => (host, format!("/{path}")),
        None => (rest, usual.to_owned()),
    };
    if path.contains(|c: char| !c.is_ascii_graphic()) {
        problems.push(format!("{key}: `{}` is not a path", path.escape_debug()));
    }
    let host = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        host.to_owned()
    } else {
        format!("{host}:{}", if tls { 443 } else { 80 })
    };
    // What is exported holds statements and their values; http is for a collector on this host.
    if !tls && !is_local(&host) {
        problems.push(format!("{key}: http is for loopback addresses only; use https"));
    }
    if !tls && ca_file.is_some() {
        problems.push(format!("{key}: ca_file does nothing with http"));
    }
    let host = with_port(key, host, problems);
    Some(Collector { address: Address { host, tls, ca_file }, path })
}

fn with_port(key: &str, address: String, problems: &mut Vec<String>) -> String {
    let good = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
        && address.chars().all(|c| c.is_ascii_graphic());
    if !good {
        problems.push(format!("{key}: `{}` is not host:port", address.escape_debug()));
    }
    address
}

fn is_local(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}
