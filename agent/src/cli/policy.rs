//! `chaperone policy test` and `policy explain`: what policies decide, asked without an agent or a database.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use chaperone_policy::{
    Action, Approval, Approving, Database, Decision, Effect, Flag, PolicySet, Principal, Request, Resource,
};
use serde::{Deserialize, Serialize};

use super::Failure;
use super::operate::print_json;
use crate::app;
use crate::config::Config;
use crate::gate;

/// Approvals in a case are for the very statement that is asked about.
const HASH: &str = "case";

#[derive(Debug, clap::Subcommand)]
pub(super) enum Policy {
    /// Run requests with expected decisions from TOML files; status 1 if one is decided otherwise.
    Test {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The policies; default: the configuration's.
        #[arg(long)]
        policies: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// Say how one request is decided, and by which rules.
    Explain {
        #[command(flatten)]
        asked: Box<Asked>,
        /// The policies; default: the configuration's.
        #[arg(long)]
        policies: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
}

/// One request.
#[derive(Debug, Clone, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// An identity; its groups are those of the configuration.
    #[arg(long)]
    identity: String,
    /// A group it is in besides; may be given several times.
    #[arg(long = "group")]
    #[serde(default)]
    groups: Vec<String>,
    /// As in a policy, such as sql:delete.
    #[arg(long)]
    action: String,
    #[arg(long)]
    target: String,
    /// Of the target, where the configuration does not know it.
    #[arg(long)]
    env: Option<String>,
    #[arg(long)]
    database: String,
    #[arg(long, group = "what")]
    schema: Option<String>,
    /// As schema.table.
    #[arg(long, group = "what")]
    table: Option<String>,
    /// As schema.routine.
    #[arg(long, group = "what")]
    routine: Option<String>,
    /// As schema.table.column.
    #[arg(long, group = "what")]
    column: Option<String>,
    /// A tag of the column.
    #[arg(long = "tag")]
    #[serde(default)]
    tags: Vec<String>,
    /// A fact about the statement, such as no_where.
    #[arg(long = "flag")]
    #[serde(default)]
    flags: Vec<String>,
    /// A table of the statement besides, as schema.table.
    #[arg(long = "with-table")]
    #[serde(default)]
    tables: Vec<String>,
    /// With the action `approve`: who would say yes, by the name in the configuration.
    #[arg(long)]
    person: Option<String>,
    /// With `approve`: statement, access or grant.
    #[arg(long, default_value = "statement")]
    #[serde(default = "statement")]
    kind: String,
    /// With `approve`: a rule that holds it; may be given several times.
    #[arg(long = "rule")]
    #[serde(default)]
    rules: Vec<String>,
    /// Who has approved it.
    #[arg(skip)]
    #[serde(default)]
    approvals: Vec<Given>,
}

fn statement() -> String {
    "statement".into()
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    by: String,
    groups: BTreeSet<String>,
    /// How long ago, in seconds.
    #[serde(default)]
    age_s: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    test: Vec<Case>,
}

/// A request with what is expected of it. Not flattened: unknown keys are refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    ask: Asked,
    expect: Expected,
    /// The rule that has to be among those that decided.
    policy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Permit,
    Hold,
    Deny,
}

impl From<Effect> for Expected {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Permit => Self::Permit,
            Effect::Hold => Self::Hold,
            Effect::Deny => Self::Deny,
        }
    }
}

#[derive(Serialize)]
struct Outcome {
    file: PathBuf,
    name: String,
    ok: bool,
    #[serde(flatten)]
    said: Said,
}

#[derive(Serialize)]
struct Said {
    decision: Expected,
    policies: Vec<String>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_rows: Option<u64>,
    max_bytes: Option<u64>,
    max_time_s: Option<u64>,
    /// What an approval takes, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    approvals: Vec<String>,
}

impl From<Decision> for Said {
    fn from(decision: Decision) -> Self {
        let need = |need: &chaperone_policy::ApprovalNeed| {
            format!(
                "{} of {} ({}, good for {} s)",
                need.quorum,
                need.groups.join(", "),
                need.rule,
                need.ttl.as_secs()
            )
        };
        Self {
            decision: decision.effect.into(),
            approvals: decision.obligations.approvals.iter().map(need).collect(),
            max_rows: decision.obligations.max_rows,
            max_bytes: decision.obligations.max_bytes,
            max_time_s: decision.obligations.max_time.map(|time| time.as_secs()),
            policies: if decision.policies.is_empty() {
                vec![decision.rule().to_owned()]
            } else {
                decision.policies
            },
            reason: decision.reason,
            hint: decision.hint,
        }
    }
}

pub(super) fn run(config: &Path, command: &Policy, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        Policy::Test { files, policies, json } => test(config, files, policies.as_deref(), *json, out),
        Policy::Explain { asked, policies, json } => explain(config, asked, policies.as_deref(), *json, out),
    }
}

fn test(
    config: &Path,
    files: &[PathBuf],
    policies: Option<&Path>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let config = Config::load(config)?;
    let set = load(&config, policies)?;
    let mut outcomes = Vec::new();
    for path in files {
        let bad = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let file: File = toml::from_str(&text).map_err(|error| bad(error.to_string()))?;
        for case in file.test {
            let said = Said::from(
                decide(&set, &config, &case.ask).map_err(|why| bad(format!("{}: {why}", case.name)))?,
            );
            let ok = said.decision == case.expect
                && case.policy.as_ref().is_none_or(|policy| said.policies.contains(policy));
            if !json {
                line(&case, &said, ok, out)?;
            }
            outcomes.push(Outcome { file: path.clone(), name: case.name, ok, said });
        }
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.ok).count();
    if json {
        print_json(&outcomes, out)?;
    } else {
        writeln!(out, "{} passed, {failed} failed", outcomes.len() - failed)?;
    }
    // A file that tests nothing proves nothing.
    if outcomes.is_empty() {
        return Err(Failure::Usage("no [[test]] in these files".into()));
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Said) }
}

fn line(case: &Case, said: &Said, ok: bool, out: &mut dyn Write) -> std::io::Result<()> {
    if ok {
        return writeln!(out, "ok      {}", case.name);
    }
    let mut expected = format!("{:?}", case.expect).to_lowercase();
    if let Some(policy) = &case.policy {
        let _ = write!(expected, " by {policy}");
    }
    let got = format!("{:?}", said.decision).to_lowercase();
    let policies = said.policies.join(", ");
    writeln!(out, "FAILED  {}: expected {expected}, got {got} by {policies}: {}", case.name, said.reason)
}

fn explain(
    config: &Path,
    asked: &Asked,
    policies: Option<&Path>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let config = Config::load(config)?;
    let set = load(&config, policies)?;
    let said = Said::from(decide(&set, &config, asked).map_err(Failure::Usage)?);
    if json {
        return print_json(&said, out);
    }
    writeln!(out, "decision   {}", format!("{:?}", said.decision).to_lowercase())?;
    writeln!(out, "by         {}", said.policies.join(", "))?;
    writeln!(out, "because    {}", said.reason)?;
    for need in &said.approvals {
        writeln!(out, "needs      {need}")?;
    }
    if let Some(rows) = said.max_rows {
        writeln!(out, "at most    {rows} rows")?;
    }
    if let Some(bytes) = said.max_bytes {
        writeln!(out, "at most    {bytes} bytes")?;
    }
    if let Some(seconds) = said.max_time_s {
        writeln!(out, "at most    {seconds} s")?;
    }
    if let Some(hint) = &said.hint {
        writeln!(out, "hint       {hint}")?;
    }
    Ok(())
}

fn load(config: &Config, policies: Option<&Path>) -> Result<PolicySet, Failure> {
    match policies {
        Some(dir) => gate::load(dir).map_err(|error| Failure::Usage(error.to_string())),
        None => app::checked_policies(config).map_err(|error| Failure::Usage(super::whole(&error))),
    }
}

fn decide(set: &PolicySet, config: &Config, asked: &Asked) -> Result<Decision, String> {
    let known = config.identities.iter().find(|identity| identity.name == asked.identity);
    if known.is_none() && asked.groups.is_empty() {
        return Err(format!("the configuration has no identity {}; say its groups", asked.identity));
    }
    let groups = known.into_iter().flat_map(|identity| &identity.groups).chain(&asked.groups);
    let principal = Principal::new(&asked.identity, groups.cloned());
    let action = Action::from_str(&asked.action).map_err(|error| error.to_string())?;
    let database = database(config, asked)?;
    let resource = resource(&database, asked)?;
    if action == Action::Approve {
        let owner = known.and_then(|identity| identity.owner.as_deref());
        return approving(set, config, asked, &principal, owner, &resource);
    }
    let flags: Vec<Flag> = asked
        .flags
        .iter()
        .map(|flag| Flag::from_str(flag).map_err(|error| error.to_string()))
        .collect::<Result<_, _>>()?;
    let own = asked.table.iter();
    let tables: Vec<Resource> = own
        .chain(&asked.tables)
        .map(|table| split(table).map(|(schema, name)| database.table(schema, name)))
        .collect::<Result<_, _>>()?;
    let approval = |given: &Given| Approval {
        by: given.by.clone(),
        groups: given.groups.clone(),
        statement_hash: HASH.to_owned(),
        age: Duration::from_secs(given.age_s),
    };
    let approvals: Vec<Approval> = asked.approvals.iter().map(approval).collect();
    Ok(set.decide(&Request {
        flags: &flags,
        tables: &tables,
        approvals: &approvals,
        statement_hash: HASH,
        ..Request::new(&principal, action, &resource)
    }))
}

/// Whether a person may say yes. Only what rules say: the group that `@approval` names comes on top.
fn approving(
    set: &PolicySet,
    config: &Config,
    asked: &Asked,
    identity: &Principal,
    owner: Option<&str>,
    resource: &Resource,
) -> Result<Decision, String> {
    let name = asked.person.as_deref().ok_or("the action approve is a person's; say which")?;
    let known = config.approvers.iter().find(|person| person.name == name);
    let known = known.ok_or_else(|| format!("the configuration has no approver {name}"))?;
    let person = Principal::person(name, known.groups.iter().cloned());
    let approving = Approving { identity, owner, kind: &asked.kind, rules: &asked.rules };
    let request = Request { approving: Some(&approving), ..Request::new(&person, Action::Approve, resource) };
    let decision = set.decide(&request);
    if decision.effect != Effect::Permit && set.may_approve(&person, resource, &approving).is_ok() {
        let reason = "no permit is about approving, so @approval alone says who may".to_owned();
        return Ok(Decision { effect: Effect::Permit, reason, hint: None, ..decision });
    }
    Ok(decision)
}

fn database(config: &Config, asked: &Asked) -> Result<Database, String> {
    let known =
        config.targets.iter().find(|target| target.name == asked.target).map(|target| target.env.as_str());
    let env = match (asked.env.as_deref(), known) {
        (Some(said), Some(known)) if said != known => {
            return Err(format!("target {} is in env {known}, not {said}", asked.target));
        }
        (Some(env), _) | (None, Some(env)) => env,
        (None, None) => return Err(format!("the configuration has no target {}; say its env", asked.target)),
    };
    Ok(Database::new(&asked.target, env, &asked.database))
}

fn resource(database: &Database, asked: &Asked) -> Result<Resource, String> {
    match (&asked.schema, &asked.table, &asked.routine, &asked.column) {
        (None, None, None, None) => Ok(database.resource()),
        (Some(schema), None, None, None) => Ok(database.schema(schema)),
        (None, Some(table), None, None) => split(table).map(|(schema, name)| database.table(schema, name)),
        (None, None, Some(routine), None) => {
            split(routine).map(|(schema, name)| database.routine(schema, name))
        }
        (None, None, None, Some(column)) => {
            let (table, column) = column.rsplit_once('.').ok_or("a column is schema.table.column")?;
            let (schema, table) = split(table)?;
            let tags: Vec<&str> = asked.tags.iter().map(String::as_str).collect();
            Ok(database.column(schema, table, column, &tags))
        }
        _ => Err("one of schema, table, routine and column".into()),
    }
}

fn split(name: &str) -> Result<(&str, &str), String> {
    name.split_once('.').ok_or_else(|| format!("`{name}` is not schema.name"))
}
