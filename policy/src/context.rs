//! Requests as Cedar contexts: one function per type of context in the schema.
//!
//! Deliberately does not know which rules look at them.

use cedar_policy::{Context, RestrictedExpression};

use crate::decide::Request;
use crate::entity::{Kind, uid};
use crate::vocabulary::ContextOf;

/// The context of a statement, as the schema's `Statement` has it.
pub(crate) fn statement(request: &Request<'_>) -> Result<Context, String> {
    if let Some(other) = request.tables.iter().find(|table| table.kind() != Kind::Table) {
        return Err(format!("{other:?} among the tables"));
    }
    let flags = request.flags.iter().map(|flag| RestrictedExpression::new_entity_uid(flag.uid()));
    let tables = request.tables.iter().map(|table| table.lineage().uid.clone());
    let tables = tables.map(RestrictedExpression::new_entity_uid);
    let pairs = [
        ("flags".to_owned(), RestrictedExpression::new_set(flags)),
        ("tables".to_owned(), RestrictedExpression::new_set(tables)),
        request.principal.facts().attribute()?,
    ];
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

/// The context of a yes, as the schema's `Approving` has it.
pub(crate) fn approving(request: &Request<'_>) -> Result<Context, String> {
    let approving = request.approving.ok_or("nothing is known of what would be approved")?;
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let identity = approving.identity.lineage().uid.clone();
    let owner = approving.owner.map(|owner| uid(Kind::Person, owner.to_owned()));
    let owner = owner.map(|owner| ("owner".to_owned(), RestrictedExpression::new_entity_uid(owner)));
    let always = [
        ("identity".to_owned(), RestrictedExpression::new_entity_uid(identity)),
        ("kind".to_owned(), text(approving.kind)),
        ("rules".to_owned(), RestrictedExpression::new_set(approving.rules.iter().map(|rule| text(rule)))),
        approving.identity.facts().attribute()?,
    ];
    Context::from_pairs(always.into_iter().chain(owner)).map_err(|error| error.to_string())
}

/// The context of a request to a host, as the schema's types of that name have it.
pub(crate) fn host(of: ContextOf, request: &Request<'_>) -> Result<Context, String> {
    let facts = request.host.ok_or("nothing is known of the request")?;
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let mut pairs = vec![("login".to_owned(), text(facts.login)), request.principal.facts().attribute()?];
    match of {
        ContextOf::Command => pairs.extend([
            ("command".to_owned(), text(facts.command)),
            (
                "programs".to_owned(),
                RestrictedExpression::new_set(facts.programs.iter().map(|name| text(name))),
            ),
            ("simple".to_owned(), RestrictedExpression::new_bool(facts.simple)),
            ("line".to_owned(), text(facts.line)),
        ]),
        ContextOf::File => {
            pairs.extend([("path".to_owned(), text(facts.path)), ("via".to_owned(), text(facts.via))]);
        }
        ContextOf::Output => pairs.push(("mask".to_owned(), text(facts.mask))),
        ContextOf::Variable => {
            pairs.extend([("name".to_owned(), text(facts.name)), ("value".to_owned(), text(facts.value))]);
        }
        ContextOf::Forward => pairs.extend([
            ("host".to_owned(), text(facts.forward.host)),
            ("port".to_owned(), RestrictedExpression::new_long(i64::from(facts.forward.port))),
            ("target".to_owned(), text(facts.forward.target)),
        ]),
        ContextOf::Login | ContextOf::Nothing | ContextOf::Statement | ContextOf::Approving => {}
    }
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}
