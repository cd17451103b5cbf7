//! Whose login a token is, by the configuration of now.

use std::sync::Arc;
use std::time::Duration;

use crate::control::{Bearer, Person, WhoLoggedIn};
use crate::identity::person;
use crate::intercept::Redirects;
use crate::record::event;
use crate::session::Shared;

/// The provider's keys may have to be fetched; whoever asks does not wait longer.
const LONGEST: Duration = Duration::from_secs(4);

pub(super) fn who(shared: Arc<Shared<Redirects>>) -> WhoLoggedIn {
    Box::new(move |token| {
        let shared = Arc::clone(&shared);
        Box::pin(async move {
            let asked = tokio::time::timeout(LONGEST, find(&shared, token)).await;
            asked.unwrap_or_else(|_| Err("the identity provider does not answer; try again".to_owned()))
        })
    })
}

async fn find(shared: &Shared<Redirects>, Bearer(token): Bearer) -> Result<Person, String> {
    let world = shared.world();
    let login = world.config.login.as_ref();
    let login = login.ok_or("nobody logs in here: the configuration has no [login]")?;
    let provider = world.identities.tokens().provider(&login.provider);
    let provider = provider.ok_or_else(|| format!("there is no provider {}", login.provider))?;
    let found = person::who(&provider, login, &token).await;
    let found = found.map_err(|error| format!("the login does not count: {error}"))?;
    Ok(Person {
        may_lend: login.lends(&found.groups),
        name: found.name,
        groups: found.groups,
        login: Some(event::Login {
            issuer: found.issuer,
            subject: found.subject,
            token_id: found.token_id,
            expires_unix_s: found.expires,
        }),
    })
}
