//! What waits for people: statements, and connections that ask for access.
//!
//! A hold is a one-shot: dropping the ticket withdraws it, dropping everything denies. Nothing here outlives the
//! agent, so a restart denies what was held. Votes count people, not clicks; whether a person is who they say was
//! settled before.
//!
//! Who does not wait is parked: the request stands without a session, and once approved, exactly the same passes once.

mod info;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use chaperone_policy::ApprovalNeed;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

pub use self::info::Asker;
use super::grants::Given;
use crate::record::event::{Bind, Identity, Workload};

/// What an approver is shown: exactly what will run, for whom, and why it was held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HoldInfo {
    pub id: String,
    pub what: Held,
    pub session: String,
    pub op: u64,
    pub identity: Identity,
    /// The person behind the identity.
    pub owner: Option<String>,
    pub workload: Option<Workload>,
    pub target: String,
    /// Of the target.
    #[serde(default)]
    pub env: String,
    pub database: String,
    /// `database` is an account of a host.
    #[serde(default)]
    pub host: bool,
    pub sql: String,
    pub binds: Vec<Bind>,
    /// By which dates and times in it are read; an approval is bound to them.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// SHA-256 over what is asked for, by whom and where, hex. The same again, where nobody waits, is the same request.
    #[serde(default)]
    pub request: String,
    /// SHA-256 over that and the deadline: what an approval is for. Made when it is registered.
    pub binding: String,
    pub policies: Vec<String>,
    pub reason: Option<String>,
    /// Each of these has to be met.
    pub needs: Vec<Need>,
    /// Who has said yes so far.
    pub given: Vec<Given>,
    /// What it would touch, once that is known. Not bound to the approval: it changes with the data.
    #[serde(default)]
    pub blast: Option<Blast>,
    /// Who waits for what its session has locked, once that is too long.
    #[serde(default)]
    pub in_the_way: Option<InTheWay>,
    pub created_unix_s: u64,
    pub expires_unix_s: u64,
}

/// What a statement would touch, as far as the target can tell without running it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blast {
    /// What the planner expects.
    pub rows: Option<u64>,
    pub tables: Vec<String>,
    /// Foreign keys that point at them.
    pub references: Vec<String>,
    /// Why there is no number of rows.
    pub unknown: Option<String>,
}

/// Others wait for what a session has locked, which waits for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InTheWay {
    pub sessions: u64,
    pub seconds: u64,
    /// Some of them, as the target knows them.
    pub who: Vec<String>,
}

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    Statement,
    /// A connection. A yes to it is a grant.
    Access,
}

/// What a rule asks for: so many different people of any of these groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    pub rule: String,
    pub groups: Vec<String>,
    pub quorum: u32,
    pub ttl_s: u64,
}

impl From<&ApprovalNeed> for Need {
    fn from(need: &ApprovalNeed) -> Self {
        Self {
            rule: need.rule.clone(),
            groups: need.groups.clone(),
            quorum: need.quorum,
            ttl_s: need.ttl.as_secs(),
        }
    }
}

impl Need {
    fn counts(&self, given: &Given) -> bool {
        given.groups.as_ref().is_none_or(|groups| self.groups.iter().any(|group| groups.contains(group)))
    }

    fn missing(&self, given: &[Given]) -> usize {
        let people: BTreeSet<&str> =
            given.iter().filter(|given| self.counts(given)).map(|given| given.by.as_str()).collect();
        (self.quorum as usize).saturating_sub(people.len())
    }
}

/// What a yes to a connection grants; what is not said follows from the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTerms {
    pub for_s: Option<u64>,
    pub max_uses: Option<u64>,
    pub max_rows: Option<u64>,
    pub ticket: Option<String>,
}

/// One person's answer.
#[derive(Debug, Clone)]
pub struct Vote {
    pub approve: bool,
    pub given: Given,
    pub comment: Option<String>,
    pub terms: AccessTerms,
}

/// How the people decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    pub approved: bool,
    pub given: Vec<Given>,
    pub comment: Option<String>,
    pub terms: AccessTerms,
}

impl Resolution {
    /// Everybody who said so.
    #[must_use]
    pub fn by(&self) -> String {
        self.given.iter().map(|given| given.by.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// What came of a vote.
#[derive(Debug, Clone)]
pub enum Voted {
    /// The session that waits was told.
    Resolved(HoldInfo),
    /// Nobody waits: the caller has to carry it out.
    Parked(HoldInfo, Resolution),
    /// More people are needed.
    Waiting { info: HoldInfo, missing: usize },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VoteError {
    #[error("nothing is held under the id {0}; it may have been decided, withdrawn or timed out")]
    Unknown(String),
    #[error("{0} asked for it, and nobody approves for themselves")]
    Own(String),
    #[error("{0} stands behind the identity that asks, and does not approve for it")]
    Owner(String),
    #[error("{by} is in none of the groups that may approve this: {groups}")]
    WrongGroup { by: String, groups: String },
    #[error("{0} has approved it already; another person is needed")]
    Twice(String),
    #[error("what is held under {0} is not what was signed")]
    Changed(String),
}

/// Requests of one identity that stand without a session, at most; more are refused.
const MOST_PARKED: usize = 100;

/// A decision that is there already is looked at in no time.
const DECIDED: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_PARKED} requests of this identity wait for an approval already")]
pub struct TooMany;

#[derive(Debug, Default)]
pub struct Holds {
    inner: Mutex<Inner>,
    /// Where new requests are told.
    announce_tx: Option<mpsc::Sender<HoldInfo>>,
    /// For who asks a target about what nobody waits for.
    turns: Turns,
}

/// So many at once.
#[derive(Debug)]
struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(4))
    }
}

#[derive(Debug, Default)]
struct Inner {
    pending: BTreeMap<String, Pending>,
    /// By request: what passes once, and until when.
    ready: HashMap<String, Ready>,
    /// What nobody answered in time and nobody waited for: its end is still to be recorded.
    unanswered: Vec<HoldInfo>,
}

#[derive(Debug)]
struct Ready {
    id: String,
    given: Vec<Given>,
    until: Instant,
}

#[derive(Debug)]
enum Waiter {
    Session(oneshot::Sender<Resolution>),
    Nobody { until: Instant },
}

#[derive(Debug)]
struct Pending {
    info: HoldInfo,
    terms: AccessTerms,
    waiter: Waiter,
}

/// The waiting side of a hold.
#[derive(Debug)]
pub struct Ticket {
    pub info: HoldInfo,
    pub deadline: Instant,
    resolution_rx: oneshot::Receiver<Resolution>,
    holds: Arc<Holds>,
}

impl Holds {
    /// Tells new requests to the other end as well.
    #[must_use]
    pub fn announcing(announce_tx: Option<mpsc::Sender<HoldInfo>>) -> Self {
        Self { announce_tx, ..Self::default() }
    }

    /// Nothing waits for it, and what does not fit is dropped: it stands in the list all the same.
    fn announce(&self, info: &HoldInfo) {
        if let Some(announce_tx) = &self.announce_tx
            && announce_tx.try_send(info.clone()).is_err()
        {
            tracing::warn!(hold = info.id, "too many requests at once to announce this one");
        }
    }

    /// Registers what is held; `info.created` and `info.expires` are filled in here.
    #[must_use]
    pub fn open(self: &Arc<Self>, mut info: HoldInfo, timeout: Duration) -> Ticket {
        stamp(&mut info, timeout);
        let (resolution_tx, resolution_rx) = oneshot::channel();
        let waiter = Waiter::Session(resolution_tx);
        let pending = Pending { info: info.clone(), terms: AccessTerms::default(), waiter };
        self.lock().pending.insert(info.id.clone(), pending);
        self.announce(&info);
        Ticket { info, deadline: Instant::now() + timeout, resolution_rx, holds: Arc::clone(self) }
    }

    /// A ticket that is decided already, for what was parked, approved and sent again; it is looked at like any other.
    #[must_use]
    pub fn decided(self: &Arc<Self>, info: HoldInfo) -> Ticket {
        let (resolution_tx, resolution_rx) = oneshot::channel();
        let (given, terms) = (info.given.clone(), AccessTerms::default());
        // The other end is right here.
        let _ = resolution_tx.send(Resolution { approved: true, given, comment: None, terms });
        Ticket { info, deadline: Instant::now() + DECIDED, resolution_rx, holds: Arc::clone(self) }
    }

    /// Registers a request that nobody waits for. The same again is the same request: its id, and whether it is new.
    ///
    /// # Errors
    /// When too many stand already.
    pub fn park(&self, mut info: HoldInfo, timeout: Duration) -> Result<(String, bool), TooMany> {
        let mut inner = self.lock();
        let parked = |pending: &&Pending| matches!(pending.waiter, Waiter::Nobody { .. });
        if let Some(same) = inner.pending.values().filter(parked).find(|p| p.info.request == info.request) {
            return Ok((same.info.id.clone(), false));
        }
        let own =
            inner.pending.values().filter(parked).filter(|p| p.info.identity.name == info.identity.name);
        if own.count() >= MOST_PARKED {
            return Err(TooMany);
        }
        stamp(&mut info, timeout);
        self.announce(&info);
        let id = info.id.clone();
        let waiter = Waiter::Nobody { until: Instant::now() + timeout };
        inner.pending.insert(id.clone(), Pending { info, terms: AccessTerms::default(), waiter });
        Ok((id, true))
    }

    /// Requests that ended unanswered since this was asked last, where no session is there to record it.
    #[must_use]
    pub fn take_unanswered(&self) -> Vec<HoldInfo> {
        std::mem::take(&mut self.lock().unanswered)
    }

    /// The same of all that nobody waits for: the agent ends, and they end with it.
    #[must_use]
    pub fn withdraw_parked(&self) -> Vec<HoldInfo> {
        let mut inner = self.lock();
        let parked = |pending: &Pending| matches!(pending.waiter, Waiter::Nobody { .. });
        let ended = inner.pending.extract_if(.., |_, pending| parked(pending));
        ended.map(|(_, pending)| pending.info).collect()
    }

    /// Lets what was parked pass once, until the approval is too old.
    pub fn release(&self, info: &HoldInfo, given: Vec<Given>) {
        let ttl = info.needs.iter().map(|need| need.ttl_s).min().unwrap_or_default();
        let until = Instant::now() + Duration::from_secs(ttl);
        self.lock().ready.insert(info.request.clone(), Ready { id: info.id.clone(), given, until });
    }

    /// The approval of exactly this, if there is one; it is used up.
    #[must_use]
    pub fn take_ready(&self, request: &str) -> Option<(String, Vec<Given>)> {
        self.lock().ready.remove(request).map(|ready| (ready.id, ready.given))
    }

    /// How many connections of an identity wait for access.
    #[must_use]
    pub fn asking(&self, identity: &str) -> usize {
        let inner = self.lock();
        let of_it = inner.pending.values().filter(|pending| {
            pending.info.what == Held::Access
                && pending.info.identity.name == identity
                && matches!(pending.waiter, Waiter::Session(_))
        });
        of_it.count()
    }

    /// Waits until few enough others ask their targets about what is parked.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.0.acquire().await.ok()
    }

    /// Adds what was found out since.
    pub fn describe(&self, id: &str, blast: Blast) {
        if let Some(pending) = self.lock().pending.get_mut(id) {
            pending.info.blast = Some(blast);
        }
    }

    /// Tells people again, now with who waits for it.
    pub fn escalate(&self, id: &str, found: InTheWay) {
        let mut inner = self.lock();
        let Some(pending) = inner.pending.get_mut(id) else { return };
        pending.info.in_the_way = Some(found);
        let info = pending.info.clone();
        drop(inner);
        self.announce(&info);
    }

    /// What waits under this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<HoldInfo> {
        self.lock().pending.get(id).map(|pending| pending.info.clone())
    }

    #[must_use]
    pub fn list(&self) -> Vec<HoldInfo> {
        self.lock().pending.values().map(|pending| pending.info.clone()).collect()
    }

    /// Takes a vote; the session is told once enough people have said yes, or one has said no. `binding` is what
    /// the voter has seen, where that is certain.
    ///
    /// # Errors
    /// When nothing waits under this id any more, or this person's yes does not count.
    pub fn vote(&self, id: &str, vote: Vote, binding: Option<&str>) -> Result<Voted, VoteError> {
        let mut inner = self.lock();
        let unknown = || VoteError::Unknown(id.to_owned());
        let pending = inner.pending.get_mut(id).ok_or_else(unknown)?;
        if binding.is_some_and(|binding| binding != pending.info.binding) {
            return Err(VoteError::Changed(id.to_owned()));
        }
        if vote.approve {
            may_approve(&pending.info, &vote.given)?;
            pending.info.given.push(vote.given);
            pending.terms = strictest(&pending.terms, vote.terms);
            let missing: usize =
                pending.info.needs.iter().map(|need| need.missing(&pending.info.given)).sum();
            if missing > 0 {
                return Ok(Voted::Waiting { info: pending.info.clone(), missing });
            }
        } else {
            pending.info.given = vec![vote.given];
        }
        let Pending { info, terms, waiter } = inner.pending.remove(id).ok_or_else(unknown)?;
        drop(inner);
        let resolution =
            Resolution { approved: vote.approve, given: info.given.clone(), comment: vote.comment, terms };
        match waiter {
            Waiter::Session(resolution_tx) => {
                resolution_tx.send(resolution).map_err(|_| unknown())?;
                Ok(Voted::Resolved(info))
            }
            Waiter::Nobody { .. } => Ok(Voted::Parked(info, resolution)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // What nobody waits for ends when somebody looks.
        let now = Instant::now();
        let Inner { pending, ready, unanswered } = &mut *inner;
        let over = |pending: &Pending| matches!(pending.waiter, Waiter::Nobody { until } if until <= now);
        let ended = pending.extract_if(.., |_, pending| over(pending));
        unanswered.extend(ended.map(|(_, pending)| pending.info));
        ready.retain(|_, ready| now < ready.until);
        inner
    }
}

fn stamp(info: &mut HoldInfo, timeout: Duration) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    info.created_unix_s = now.as_secs();
    info.expires_unix_s = (now + timeout).as_secs();
    let deadline = info.expires_unix_s.to_be_bytes();
    info.binding = crate::hex(&Sha256::digest([info.request.as_bytes(), &deadline].concat()));
}

fn may_approve(info: &HoldInfo, given: &Given) -> Result<(), VoteError> {
    let by = || given.by.clone();
    if given.by == info.identity.name {
        return Err(VoteError::Own(by()));
    }
    if info.owner.as_ref() == Some(&given.by) {
        return Err(VoteError::Owner(by()));
    }
    if !info.needs.iter().any(|need| need.counts(given)) {
        let groups: BTreeSet<&str> =
            info.needs.iter().flat_map(|need| need.groups.iter().map(String::as_str)).collect();
        let groups = groups.into_iter().collect::<Vec<_>>().join(", ");
        return Err(VoteError::WrongGroup { by: by(), groups });
    }
    if info.given.iter().any(|before| before.by == given.by) {
        return Err(VoteError::Twice(by()));
    }
    Ok(())
}

/// Of what several people grant, the least.
fn strictest(one: &AccessTerms, other: AccessTerms) -> AccessTerms {
    let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
    AccessTerms {
        for_s: least(one.for_s, other.for_s),
        max_uses: least(one.max_uses, other.max_uses),
        max_rows: least(one.max_rows, other.max_rows),
        ticket: one.ticket.clone().or(other.ticket),
    }
}

impl Ticket {
    /// Waits for the decision; `None` when the time is up.
    pub async fn wait(&mut self) -> Option<Resolution> {
        tokio::time::timeout_at(self.deadline, &mut self.resolution_rx).await.ok()?.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.holds.lock().pending.remove(&self.info.id);
    }
}

#[cfg(test)]
mod tests;
