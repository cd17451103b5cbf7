//! What is known of a request before anybody has said anything to it: the one place that makes it.

use std::collections::BTreeMap;

use super::{Held, HoldInfo};
use crate::gate::Place;
use crate::record::event::{Identity, Workload};

/// Who asks, and in which session.
pub struct Asker<'a> {
    pub session: &'a str,
    pub identity: Identity,
    pub owner: Option<&'a str>,
    pub workload: &'a Workload,
}

impl HoldInfo {
    /// A request of nothing yet: what is asked for, and what policy wants for it, the caller adds. `request` is the digest
    /// over all of that; who says yes says it to that digest and the deadline, which come when it is registered.
    #[must_use]
    pub fn new(id: String, request: String, asker: Asker<'_>, place: Place<'_>) -> Self {
        Self {
            id,
            request,
            what: Held::Statement,
            session: asker.session.to_owned(),
            op: 0,
            identity: asker.identity,
            owner: asker.owner.map(str::to_owned),
            workload: Some(asker.workload.clone()),
            target: place.target.to_owned(),
            env: place.env.to_owned(),
            database: place.database.to_owned(),
            host: place.host,
            sql: String::new(),
            binds: Vec::new(),
            settings: BTreeMap::new(),
            binding: String::new(),
            policies: Vec::new(),
            reason: None,
            needs: Vec::new(),
            given: Vec::new(),
            blast: None,
            in_the_way: None,
            created_unix_s: 0,
            expires_unix_s: 0,
        }
    }

    /// A name for a request that people can read out.
    #[must_use]
    pub fn fresh_id() -> String {
        let random = uuid::Uuid::now_v7().simple().to_string();
        format!("h-{}", random.get(22..).unwrap_or(&random))
    }
}
