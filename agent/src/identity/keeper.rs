//! Keeps a token of each identity that needs one: obtained ahead of its end, checked, and gone when it ends.
//!
//! The identity's groups are those of the token. When the provider cannot be reached, what is there stays good until it ends,
//! and then the identity is nobody until there is another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::provider::{Provider, ProviderError};
use super::source::Source;
use crate::command::CommandError;
use crate::config::{IdentityRule, ProviderRule, TokenRule};
use crate::http;
use crate::upstream::{self, UpstreamError};

/// The share of its life after which a token is replaced, in percent.
const REPLACED_AFTER: u32 = 70;
const SOONEST: Duration = Duration::from_secs(1);
/// A token in a file is somebody else's to renew; looked at this often.
const FILE_EVERY: Duration = Duration::from_secs(30);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} can be read by group or others (mode {mode:o}); chmod 600 it")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} is not the PEM of an Ed25519 or P-256 key in PKCS#8")]
    Key { path: PathBuf },
    #[error("{path} holds no token")]
    NoToken { path: PathBuf },
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("the Workload API at {socket}: {why}")]
    Spiffe { socket: PathBuf, why: String },
    #[error("the token is not bound to pod {pod}, in which the workload is")]
    OtherPod { pod: String },
    #[error("nothing says where the token comes from")]
    NoSource,
    #[error("provider {name}: {source}")]
    Tls { name: String, source: UpstreamError },
    #[error("{0}")]
    Provider(#[from] ProviderError),
    #[error("{0}")]
    Groups(#[from] super::token::TokenError),
}

/// How an identity stands with its provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Good { groups: Vec<String> },
    Not(String),
}

/// The tokens of all identities that need one.
#[derive(Default)]
pub struct Tokens {
    keepers: BTreeMap<String, Arc<Keeper>>,
    providers: BTreeMap<String, Arc<Provider>>,
}

struct Keeper {
    rule: TokenRule,
    provider: ProviderRule,
    state: Arc<Mutex<State>>,
    task: AbortHandle,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct State {
    good: Option<Good>,
    /// Why there is none, or no newer one.
    why: Option<String>,
}

struct Good {
    groups: Vec<String>,
    /// The end, by both clocks: setting the wall's back extends nothing.
    expires_unix_s: u64,
    until: Instant,
}

/// Reads every key and certificate, and forgets them.
///
/// # Errors
/// When one cannot be used.
pub fn check(providers: &[ProviderRule], identities: &[IdentityRule]) -> Result<(), KeeperError> {
    for rule in providers {
        tls(rule)?;
    }
    identities.iter().filter_map(|identity| identity.token.as_ref()).try_for_each(|rule| {
        Source::load(rule)?;
        Ok(())
    })
}

/// A provider of the configuration.
///
/// # Errors
/// When its certificates cannot be used.
pub fn provider(rule: &ProviderRule) -> Result<Provider, KeeperError> {
    Ok(Provider::new(rule.clone(), tls(rule)?))
}

impl Tokens {
    /// Starts what keeps them; what is as it was before goes on. Needs a runtime.
    ///
    /// # Errors
    /// When a key or certificate cannot be used.
    pub fn start(
        providers: &[ProviderRule],
        identities: &[IdentityRule],
        before: Option<&Tokens>,
    ) -> Result<Self, KeeperError> {
        let mut tokens = Self::default();
        for rule in providers {
            let kept = before.and_then(|tokens| tokens.providers.get(&rule.name));
            let provider = match kept.filter(|provider| provider.rule == *rule) {
                Some(provider) => Arc::clone(provider),
                None => Arc::new(provider(rule)?),
            };
            tokens.providers.insert(rule.name.clone(), provider);
        }
        for identity in identities {
            let Some(rule) = &identity.token else { continue };
            let Some(provider) = tokens.providers.get(&rule.provider) else { continue };
            let kept = before.and_then(|tokens| tokens.keepers.get(&identity.name));
            let kept = kept.filter(|keeper| keeper.rule == *rule && keeper.provider == provider.rule);
            let keeper = match kept {
                Some(keeper) => Arc::clone(keeper),
                None => Arc::new(Keeper::start(&identity.name, rule, provider)?),
            };
            tokens.keepers.insert(identity.name.clone(), keeper);
        }
        Ok(tokens)
    }

    #[must_use]
    pub fn provider(&self, name: &str) -> Option<Arc<Provider>> {
        self.providers.get(name).cloned()
    }

    /// None: this identity needs no token.
    #[must_use]
    pub fn standing(&self, identity: &str) -> Option<Standing> {
        Some(lock(&self.keepers.get(identity)?.state).standing())
    }
}

impl Keeper {
    fn start(name: &str, rule: &TokenRule, provider: &Arc<Provider>) -> Result<Self, KeeperError> {
        let state = Arc::new(Mutex::new(State::default()));
        let source = Source::load(rule)?;
        let task = tokio::spawn(keep(name.to_owned(), source, Arc::clone(provider), Arc::clone(&state)));
        let (rule, provider) = (rule.clone(), provider.rule.clone());
        Ok(Self { rule, provider, state, task: task.abort_handle() })
    }
}

impl State {
    fn standing(&self) -> Standing {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let why = self.why.as_deref();
        match &self.good {
            Some(good) if now < good.expires_unix_s && Instant::now() < good.until => {
                Standing::Good { groups: good.groups.clone() }
            }
            Some(_) => {
                Standing::Not(format!("its token has ended, and there is no other: {}", why.unwrap_or("-")))
            }
            None => Standing::Not(why.unwrap_or("its provider has not answered yet").to_owned()),
        }
    }
}

/// Obtains and replaces, until it is dropped.
async fn keep(name: String, source: Source, provider: Arc<Provider>, state: Arc<Mutex<State>>) {
    let mut backoff = SOONEST;
    loop {
        let obtained = source.obtain(&provider).await.and_then(|token| {
            let groups = token.groups(&provider.rule.groups_claim)?;
            Ok((token, groups))
        });
        let sleep = match obtained {
            Ok((token, groups)) => {
                backoff = SOONEST;
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let life = Duration::from_secs(token.expires).saturating_sub(now);
                let groups = known(&provider.rule.groups, groups);
                info!(identity = name, subject = token.subject, ?groups, life_s = life.as_secs(), "token");
                let good = Good { groups, expires_unix_s: token.expires, until: Instant::now() + life };
                *lock(&state) = State { good: Some(good), why: None };
                let next = (life * REPLACED_AFTER / 100).max(SOONEST);
                if source.is_renewed_elsewhere() { next.min(FILE_EVERY) } else { next }
            }
            Err(error) => {
                warn!(identity = name, provider = provider.rule.name, %error, "no token");
                lock(&state).why = Some(error.to_string());
                let sleep = backoff;
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
                sleep
            }
        };
        tokio::time::sleep(sleep).await;
    }
}

/// Of a token's groups, those the configuration lets the provider give.
fn known(allowed: &BTreeSet<String>, groups: Vec<String>) -> Vec<String> {
    groups.into_iter().filter(|group| allowed.contains(group)).collect()
}

pub(super) fn tls(rule: &ProviderRule) -> Result<rustls::ClientConfig, KeeperError> {
    if rule.issuer.starts_with("http://") {
        return Ok(http::no_tls());
    }
    upstream::client_tls(rule.ca_file.as_deref())
        .map_err(|source| KeeperError::Tls { name: rule.name.clone(), source })
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
