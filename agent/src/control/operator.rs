//! What the control socket answers: each request, once it is known who asks and that they may.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::warn;

use super::caller::{Caller, Callers};
use super::voice::{Bearer, Voice, WhoLoggedIn};
use super::{GrantInfo, Request, Response, Status};
use crate::gate::approvers::{SignatureError, Statement};
use crate::gate::{
    Gate, Granting, Held, HoldInfo, Now, Place, Resolution, Revoked, Terms, Vote, Voted, issued_event,
};
use crate::record::event::{self, Event, GrantIssued, HoldOutcome, Signature};
use crate::record::{Journal, RecordError, Wanted};
use crate::registry::{Command, Registry};

/// Segments of the journal: as many as can be read while somebody waits for the answer.
const PRUNED_AT_ONCE: usize = 4;

/// What the socket operates on.
pub struct Operator {
    pub gate: Arc<Gate>,
    pub journal: Arc<Journal>,
    pub registry: Arc<Registry>,
    pub callers: Callers,
    pub stats: Box<dyn Fn() -> Vec<(String, u64)> + Send + Sync>,
    pub draining: Box<dyn Fn() -> bool + Send + Sync>,
    /// Begins to hand over to the process at the other end.
    pub take_over: Box<dyn Fn(Successor) + Send + Sync>,
    pub upgrade: Box<dyn Fn() -> Result<String, String> + Send + Sync>,
    pub reload: Box<dyn Fn() + Send + Sync>,
    /// The identity of this name in the configuration.
    pub known: Lookup,
    /// The targets of the configuration.
    pub sites: Box<dyn Fn() -> Vec<Site> + Send + Sync>,
    /// Whether people log in at an identity provider.
    pub people_log_in: Box<dyn Fn() -> bool + Send + Sync>,
    pub who_logged_in: WhoLoggedIn,
}

type Lookup = Box<dyn Fn(&str) -> Option<Known> + Send + Sync>;

/// An identity, as far as grants go.
pub struct Known {
    pub owner: Option<String>,
    pub groups: Vec<String>,
}

/// A target, as far as grants go.
pub struct Site {
    pub target: String,
    pub env: String,
    /// Its databases are accounts of a host.
    pub host: bool,
    /// The account sessions are in, where that does not depend on the client.
    pub account: Option<String>,
}

/// A new agent that asked to take over, and may.
pub struct Successor {
    /// Blocking; nothing was answered on it yet.
    pub stream: std::os::unix::net::UnixStream,
    pub pid: i32,
    pub version: String,
    pub layout: u32,
}

impl Operator {
    /// What somebody who may asks.
    pub(super) fn answer(&self, caller: &Caller, request: Request) -> Response {
        let Request::Signed { signed } = request else {
            return self.act(&Voice { caller, person: None, binding: None, signature: None }, request);
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let approvers = self.gate.approvers();
        match approvers.verify::<Request>(&signed, now.as_secs(), &Now::read().boot) {
            Ok((_, Statement { request: Request::Signed { .. }, .. })) => {
                self.refuse(caller, "a signature around a signature".into())
            }
            Ok((person, Statement { request, binding, .. })) => {
                let signature = Some(Signature {
                    key: signed.key.clone(),
                    text: signed.text.clone(),
                    signature: signed.signature.clone(),
                });
                self.act(&Voice { caller, person: Some(person.into()), binding, signature }, request)
            }
            Err(error) => self.refuse(caller, error.to_string()),
        }
    }

    /// What somebody who may asks, and a person who is logged in at the identity provider. The token is checked here, whatever
    /// the caller made of it.
    pub(super) async fn answer_person(
        &self,
        caller: &Caller,
        token: Bearer,
        binding: Option<String>,
        request: Request,
    ) -> Response {
        if !matches!(
            request,
            Request::Resolve { .. } | Request::Grant { .. } | Request::Revoke { .. } | Request::Kill { .. }
        ) {
            return self.refuse(caller, "this takes no login".into());
        }
        match (self.who_logged_in)(token).await {
            Ok(person) => {
                self.act(&Voice { caller, person: Some(person), binding, signature: None }, request)
            }
            Err(why) => self.refuse(caller, why),
        }
    }

    fn act(&self, voice: &Voice<'_>, request: Request) -> Response {
        match request {
            Request::Status => Response::Status(self.status()),
            Request::Flush => match self.journal.flush() {
                Ok(()) => Response::Done { what: "written".to_owned() },
                Err(error) => Response::Refused { why: error.to_string() },
            },
            Request::Approvals => Response::Approvals { holds: self.gate.holds().list() },
            Request::Sessions => Response::Sessions { sessions: self.registry.list() },
            Request::Resolve { id, approve, comment, terms } => {
                let vote = Vote { approve, given: voice.given(), comment, terms };
                self.vote(voice, &id, vote)
            }
            Request::Kill { id, reason } => self.kill(voice, &id, reason),
            Request::Grants { all } => match self.gate.grants().list(all) {
                Ok(grants) => Response::Grants { grants: grants.iter().map(GrantInfo::from).collect() },
                Err(error) => Response::Refused { why: error.to_string() },
            },
            Request::Grant { terms } => self.grant(voice, terms),
            Request::Revoke { id, reason } => self.revoke(voice, &id, &reason),
            Request::Signed { .. } => Response::Refused { why: "a signature around a signature".into() },
            Request::LoggedIn { .. } => Response::Refused { why: "a login around a login".into() },
            Request::Upgrade => self.record_then(voice, "upgrade".to_owned(), || match (self.upgrade)() {
                Ok(what) => Response::Done { what },
                Err(why) => Response::Refused { why },
            }),
            Request::Prune { older_than_s, to_bytes } => self.prune(voice, older_than_s, to_bytes),
            Request::Reload => {
                (self.reload)();
                Response::Done { what: "reloaded".to_owned() }
            }
            // Handled where the connection is at hand, and never behind a signature.
            Request::TakeOver { .. } => Response::Refused { why: "not here".into() },
        }
    }

    fn vote(&self, voice: &Voice<'_>, id: &str, vote: Vote) -> Response {
        let approve = vote.approve;
        if approve && let Err(why) = self.is_a_person(voice) {
            return self.refuse(voice.caller, why);
        }
        // A yes is for what the person was shown; without having seen it, it is for nothing.
        if approve && voice.person.is_some() && voice.binding.is_none() {
            return self.refuse(voice.caller, "the yes does not say what it is for".into());
        }
        if approve
            && let Some(info) = self.gate.holds().get(id)
            && let Err(why) = self.gate.may_approve(&info, &vote.given)
        {
            return self.refuse(voice.caller, why);
        }
        // Before it can let anything pass; whether it counts is the holds' business.
        if let Err(error) = self.record_vote(voice, id, &vote) {
            return Response::Refused { why: format!("cannot record: {error}") };
        }
        match self.gate.holds().vote(id, vote, voice.binding.as_deref()) {
            Ok(Voted::Resolved(info)) => resolved(approve, &info),
            Ok(Voted::Parked(info, resolution)) => match self.carry_out(&info, &resolution) {
                Ok(()) => resolved(approve, &info),
                Err(why) => Response::Refused { why },
            },
            Ok(Voted::Waiting { missing, .. }) => {
                let action = format!("approve {id}, {missing} more needed");
                self.record_then(voice, action, || Response::Done {
                    what: format!("noted for {id}; {missing} more needed"),
                })
            }
            Err(error) => self.refuse(voice.caller, error.to_string()),
        }
    }

    fn record_vote(&self, voice: &Voice<'_>, id: &str, vote: &Vote) -> Result<(), RecordError> {
        let Some(info) = self.gate.holds().get(id) else { return Ok(()) };
        let event = event::Vote {
            session: info.session,
            op: info.op,
            hold: info.id,
            approve: vote.approve,
            by: vote.given.by.clone(),
            comment: vote.comment.clone(),
            signature: voice.signature.clone(),
            login: voice.login(),
        };
        self.journal.append(&[Event::Vote(Box::new(event))]).map(drop)
    }

    /// Nobody waits for it, so it is recorded here; what was approved is good for once, or is a grant.
    fn carry_out(&self, info: &HoldInfo, resolution: &Resolution) -> Result<(), String> {
        let outcome = if resolution.approved { HoldOutcome::Approved } else { HoldOutcome::Denied };
        let event = Event::HoldResolved {
            session: info.session.clone(),
            op: info.op,
            hold: info.id.clone(),
            outcome,
            by: Some(resolution.by()),
            comment: resolution.comment.clone(),
            settings: info.settings.clone(),
        };
        let unrecorded = |error: crate::record::RecordError| format!("cannot record: {error}");
        self.journal.append(&[event]).map_err(unrecorded)?;
        match info.what {
            _ if !resolution.approved => Ok(()),
            Held::Statement => {
                self.gate.holds().release(info, resolution.given.clone());
                Ok(())
            }
            Held::Access => {
                let terms = self.gate.access_terms(info, resolution);
                let issued = self.gate.grants().issue(&Now::read(), terms, resolution.given.clone());
                let grant = issued.map_err(|error| error.to_string())?;
                let event = GrantIssued { hold: Some(info.id.clone()), ..issued_event(&grant) };
                let recorded = self.journal.append(&[Event::GrantIssued(Box::new(event))]);
                if recorded.is_err() {
                    let _ = self.gate.grants().revoke(&grant.id, "it could not be recorded");
                }
                recorded.map(drop).map_err(unrecorded)
            }
        }
    }

    /// Where people are configured, a yes takes the signature or the login of one: root alone is not enough.
    fn is_a_person(&self, voice: &Voice<'_>) -> Result<(), String> {
        if voice.person.is_some() {
            return Ok(());
        }
        match ((self.people_log_in)(), self.gate.approvers().is_empty()) {
            (true, _) => Err(SignatureError::NobodyLoggedIn.to_string()),
            (false, false) => Err(SignatureError::Missing.to_string()),
            (false, true) => Ok(()),
        }
    }

    fn grant(&self, voice: &Voice<'_>, terms: Terms) -> Response {
        if let Err(why) = self.may_grant(voice, &terms) {
            return self.refuse(voice.caller, why);
        }
        match self.gate.grants().issue(&Now::read(), terms, vec![voice.given()]) {
            Ok(grant) => {
                let (signature, login) = (voice.signature.clone(), voice.login());
                let event = GrantIssued { signature, login, ..issued_event(&grant) };
                match self.journal.append(&[Event::GrantIssued(Box::new(event))]) {
                    Ok(_) => Response::Granted { grant: GrantInfo::from(&grant) },
                    Err(error) => {
                        // No record, no grant.
                        let _ = self.gate.grants().revoke(&grant.id, "it could not be recorded");
                        Response::Refused { why: format!("cannot record: {error}") }
                    }
                }
            }
            Err(error) => Response::Refused { why: error.to_string() },
        }
    }

    fn may_grant(&self, voice: &Voice<'_>, terms: &Terms) -> Result<(), String> {
        self.is_a_person(voice)?;
        let known = (self.known)(&terms.identity);
        let known = known.ok_or_else(|| format!("no identity is called {}", terms.identity))?;
        if let Some(target) = &terms.target
            && !(self.sites)().iter().any(|site| site.target == *target)
        {
            return Err(format!("no target is called {target}"));
        }
        let longest = self.gate.longest_grant();
        if terms.for_s == 0 || terms.for_s > longest.as_secs() {
            return Err(format!("a grant lasts between 1 and {} s (grants.longest_s)", longest.as_secs()));
        }
        if terms.reason.trim().is_empty() {
            return Err("a grant needs a reason".into());
        }
        let Some(person) = &voice.person else { return Ok(()) };
        if person.name == terms.identity {
            return Err("nobody grants anything to themselves".into());
        }
        if known.owner.as_ref() == Some(&person.name) {
            return Err(format!(
                "{} stands behind {}, and does not grant for it",
                person.name, terms.identity
            ));
        }
        let not = person.may_not_lend(&terms.groups);
        if !not.is_empty() {
            let not = not.into_iter().collect::<Vec<_>>().join(", ");
            return Err(format!("{} may not lend: {not} (may_lend)", person.name));
        }
        self.policy_lets_grant(voice, terms, &known)
    }

    /// A grant for every target takes a permit for each.
    fn policy_lets_grant(&self, voice: &Voice<'_>, terms: &Terms, known: &Known) -> Result<(), String> {
        let sites = (self.sites)();
        let meant = |site: &&Site| terms.target.as_ref().is_none_or(|target| *target == site.target);
        for site in sites.iter().filter(meant) {
            // Any database: the name of none.
            let database = terms.database.as_deref().or(site.account.as_deref()).unwrap_or("*");
            let place = Place { target: &site.target, env: &site.env, database, host: site.host };
            let owner = known.owner.as_deref();
            let granting = Granting { terms, groups: &known.groups, owner, place };
            self.gate.may_grant(&granting, &voice.given())?;
        }
        Ok(())
    }

    fn revoke(&self, voice: &Voice<'_>, id: &str, reason: &str) -> Response {
        // Its end counts whether it can be recorded or not; the warden ends the sessions.
        match self.gate.grants().revoke(id, &format!("revoked: {reason}")) {
            Ok(Revoked { grant, unstored }) => {
                let ended = Event::GrantEnded {
                    grant: grant.id,
                    identity: grant.identity,
                    why: format!("revoked by {}: {reason}", voice.describe()),
                };
                match (self.journal.append(&[ended]), unstored) {
                    (Ok(_), None) => Response::Done { what: format!("revoked {id}") },
                    (Ok(_), Some(error)) => Response::Refused {
                        why: format!(
                            "revoked {id}, but that cannot be stored yet: {error}; it is tried again every second, and a \
                             restart before then would put the grant back in force"
                        ),
                    },
                    (Err(error), _) => {
                        Response::Refused { why: format!("revoked {id}, but cannot record: {error}") }
                    }
                }
            }
            Err(error) => Response::Refused { why: error.to_string() },
        }
    }

    fn kill(&self, voice: &Voice<'_>, id: &str, reason: String) -> Response {
        self.record_then(voice, format!("kill session {id}: {reason}"), || {
            if self.registry.command(id, Command::Kill(reason.clone())) {
                Response::Done { what: format!("killed {id}") }
            } else {
                Response::Refused { why: format!("no session {id} lives") }
            }
        })
    }

    /// Blocks on storage. Its record names who asked.
    fn prune(&self, voice: &Voice<'_>, older_than_s: Option<u64>, to_bytes: Option<u64>) -> Response {
        let wanted = Wanted {
            older_than: older_than_s.map(Duration::from_secs),
            to_bytes,
            at_most: PRUNED_AT_ONCE,
            why: "an operator asked".to_owned(),
            by: Some(voice.describe()),
        };
        match self.journal.prune(&wanted) {
            Ok(gone) => Response::Pruned { gone },
            Err(error) => Response::Refused { why: error.to_string() },
        }
    }

    fn record_then(&self, voice: &Voice<'_>, action: String, act: impl FnOnce() -> Response) -> Response {
        match self.journal.append(&[Event::Control { by: voice.describe(), action }]) {
            Ok(_) => act(),
            Err(error) => Response::Refused { why: format!("cannot record: {error}") },
        }
    }

    pub(super) fn refuse(&self, caller: &Caller, why: String) -> Response {
        warn!(caller = %caller.describe(), why, "control request refused");
        let event = Event::Control { by: caller.describe(), action: format!("refused: {why}") };
        let _ = self.journal.append(&[event]);
        Response::Refused { why }
    }

    /// A governed process may ask nothing here, root or not, whatever signature it brings.
    pub(super) fn may(&self, caller: &Caller, request: &Request) -> Result<(), String> {
        if caller.uid != 0 {
            return Err("only root may use the control socket".into());
        }
        // Whoever is in the agent's own cgroup was put there by root on the host, as systemd does with its children.
        // Elsewhere a second agent was started by mistake.
        if matches!(request, Request::TakeOver { .. } | Request::Reload) {
            if caller.cgroup == self.callers.own {
                return Ok(());
            }
            return Err(format!(
                "an agent runs already, in cgroup {}; a successor must be started there (`chaperone upgrade` does), and \
                 not in {}",
                self.callers.own, caller.cgroup
            ));
        }
        if matches!(request, Request::Status) || self.callers.allows(&caller.cgroup) {
            return Ok(());
        }
        Err(format!("cgroup {} is governed; ask from a shell outside of it", caller.cgroup))
    }

    fn status(&self) -> Status {
        let policies = self.gate.policies();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            policy_sha256: policies.set.digest().to_owned(),
            policies: policies.set.ids().count(),
            sessions: self.registry.len(),
            holds: self.gate.holds().list().len(),
            draining: (self.draining)(),
            journal_percent: self.journal.usage() * 100.0,
            kernel: (self.stats)(),
        }
    }
}

fn resolved(approve: bool, info: &HoldInfo) -> Response {
    let what = if approve { "approved" } else { "denied" };
    let shown = match info.what {
        Held::Statement => info.sql.clone(),
        Held::Access => format!("access of {} to {}/{}", info.identity.name, info.target, info.database),
    };
    Response::Done { what: format!("{what} {}: {shown}", info.id) }
}
