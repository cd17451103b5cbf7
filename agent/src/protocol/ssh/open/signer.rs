//! Who signs the certificates that Chaperone logs in with: a key on this host, or a program that has it done elsewhere.

use std::time::SystemTime;

use ring::rand::{SecureRandom as _, SystemRandom};

use super::super::certificate::{Certificate, Terms};
use super::super::keys::{SignKey, base64};
use super::{Asking, OpenError, Upstream};
use crate::command;
use crate::config::Command;
use crate::protocol::ssh::auth::AuthError;

/// How long a certificate is good for, and how far back, because clocks differ.
const CERTIFICATE_LIFE: u64 = 60;
const CLOCK_SKEW: u64 = 30;

pub(in super::super) enum Authority {
    Key(SignKey),
    Command(Command),
}

impl Authority {
    /// A key made for this login alone, and a certificate that says whose it is and what it is for.
    pub(super) async fn certify(
        &self,
        login: Upstream<'_>,
        asking: Asking<'_>,
    ) -> Result<(SignKey, Certificate), OpenError> {
        let Upstream { admitted, user, .. } = login;
        let key = SignKey::ephemeral().map_err(AuthError::from)?;
        let mut nonce = [0; 32];
        let mut serial = [0; 8];
        let rng = SystemRandom::new();
        rng.fill(&mut nonce).and_then(|()| rng.fill(&mut serial)).map_err(|_| OpenError::NoRandomness)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let operation = asking.command.map(|(op, _)| format!(" op={op}")).unwrap_or_default();
        let key_id = format!(
            "chaperone identity={} session={} target={}{operation}",
            admitted.principal.name(),
            admitted.id,
            admitted.backend.target.name
        );
        let terms = Terms {
            serial: u64::from_be_bytes(serial) >> 1,
            key_id: &key_id,
            principal: user,
            not_before: now.saturating_sub(CLOCK_SKEW),
            not_after: now + CERTIFICATE_LIFE,
            pty: asking.pty,
            command: asking.command.map(|(_, command)| command),
        };
        let certificate = match self {
            Self::Key(ca) => Certificate::issue(&key, ca, &nonce, &terms).map_err(AuthError::from)?,
            Self::Command(signer) => {
                let printed = command::run(signer, &told(&key, &terms)).await?;
                Certificate::read(&printed, &key, &terms)?
            }
        };
        Ok((key, certificate))
    }
}

/// What a signer is told, in its environment.
fn told(key: &SignKey, terms: &Terms<'_>) -> Vec<(&'static str, String)> {
    let public = format!("{} {}", key.algorithm(), base64(&key.public_blob()));
    let mut told = vec![
        ("CHAPERONE_PUBLIC_KEY", public),
        ("CHAPERONE_KEY_ID", terms.key_id.to_owned()),
        ("CHAPERONE_PRINCIPAL", terms.principal.to_owned()),
        ("CHAPERONE_VALID_AFTER", terms.not_before.to_string()),
        ("CHAPERONE_VALID_BEFORE", terms.not_after.to_string()),
        ("CHAPERONE_EXTENSIONS", if terms.pty { "permit-pty" } else { "" }.to_owned()),
    ];
    told.extend(terms.command.map(|command| ("CHAPERONE_FORCE_COMMAND", command.to_owned())));
    told
}
