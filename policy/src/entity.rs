//! Names as Cedar entities: who asks, and what is asked about.
//!
//! A [`Principal`] is built once per session, a [`Resource`] once per catalogue entry; both are cheap to clone, so a
//! decision parses and concatenates nothing. Each entity carries all its ancestors directly: the two entities of a
//! request are then the whole store, and `in` still means what it says.
//!
//! Deliberately does not know whether such a table exists.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, OnceLock};

use cedar_policy::{Entities, Entity, EntityId, EntityTypeName, EntityUid};

use crate::workload::{Facts, Workload};

/// An identity and every group it is in, inherited ones included, and the process that it acts through.
#[derive(Clone)]
pub struct Principal {
    inner: Arc<PrincipalInner>,
    facts: Arc<Facts>,
}

struct PrincipalInner {
    name: String,
    groups: Vec<String>,
    lineage: Lineage,
}

impl Principal {
    pub fn new<G: Into<String>>(name: &str, groups: impl IntoIterator<Item = G>) -> Principal {
        Self::of(Kind::NonHumanIdentity, name, groups)
    }

    fn of<G: Into<String>>(kind: Kind, name: &str, groups: impl IntoIterator<Item = G>) -> Principal {
        let groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        let parents = groups.iter().map(|group| uid(Kind::Group, group.clone())).collect();
        let lineage = Lineage::new(uid(kind, name.to_owned()), parents);
        let inner = Arc::new(PrincipalInner { name: name.to_owned(), groups, lineage });
        Principal { inner, facts: Facts::of(Workload::default()) }
    }

    /// Somebody who approves.
    pub fn person<G: Into<String>>(name: &str, groups: impl IntoIterator<Item = G>) -> Principal {
        Self::of(Kind::Person, name, groups)
    }

    /// The same identity through the same process, in these groups besides.
    pub fn joining<G: Into<String>>(&self, groups: impl IntoIterator<Item = G>) -> Principal {
        let groups = self.groups().iter().cloned().chain(groups.into_iter().map(Into::into));
        Principal { facts: Arc::clone(&self.facts), ..Principal::new(self.name(), groups) }
    }

    /// The same identity, acting through this process. Without one nothing is known of it.
    pub fn through(&self, workload: Workload) -> Principal {
        Principal { inner: Arc::clone(&self.inner), facts: Facts::of(workload) }
    }

    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub fn groups(&self) -> &[String] {
        &self.inner.groups
    }

    pub(crate) fn lineage(&self) -> &Lineage {
        &self.inner.lineage
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal").field("name", &self.name()).field("groups", &self.groups()).finish()
    }
}

/// A database on a target in an environment: the root from which resources are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    target: String,
    env: String,
    name: String,
}

impl Database {
    pub fn new(target: &str, env: &str, name: &str) -> Database {
        Database { target: target.to_owned(), env: env.to_owned(), name: name.to_owned() }
    }

    pub fn resource(&self) -> Resource {
        self.build(Kind::Database, &[], &[])
    }

    pub fn schema(&self, schema: &str) -> Resource {
        self.build(Kind::Schema, &[schema], &[])
    }

    pub fn table(&self, schema: &str, table: &str) -> Resource {
        self.build(Kind::Table, &[schema, table], &[])
    }

    pub fn routine(&self, schema: &str, routine: &str) -> Resource {
        self.build(Kind::Routine, &[schema, routine], &[])
    }

    pub fn column(&self, schema: &str, table: &str, column: &str, tags: &[&str]) -> Resource {
        self.build(Kind::Column, &[schema, table, column], tags)
    }

    fn build(&self, kind: Kind, below: &[&str], tags: &[&str]) -> Resource {
        let mut path = String::new();
        push_ident(&mut path, &self.target);
        let mut ancestors = vec![uid(Kind::Env, self.env.clone()), uid(Kind::Target, path.clone())];
        path.push('/');
        push_ident(&mut path, &self.name);
        ancestors.push(uid(Kind::Database, path.clone()));
        let levels = [('/', Kind::Schema), ('.', Kind::Table), ('.', Kind::Column)];
        for (ident, (separator, level)) in below.iter().zip(levels) {
            path.push(separator);
            push_ident(&mut path, ident);
            ancestors.push(uid(level, path.clone()));
        }
        // The last one pushed is the resource itself, under the name of its level; a routine shares a table's level.
        ancestors.pop();
        ancestors.extend(tags.iter().map(|tag| uid(Kind::Tag, (*tag).to_owned())));
        let lineage = Lineage::new(uid(kind, path.clone()), ancestors);
        Resource(Arc::new(ResourceInner { kind, path, lineage, store: OnceLock::new() }))
    }
}

/// A login on a host.
#[must_use]
pub fn account(target: &str, env: &str, login: &str) -> Resource {
    let mut path = String::new();
    push_ident(&mut path, target);
    let ancestors = vec![uid(Kind::Env, env.to_owned()), uid(Kind::Target, path.clone())];
    path.push('/');
    push_ident(&mut path, login);
    let lineage = Lineage::new(uid(Kind::Account, path.clone()), ancestors);
    Resource(Arc::new(ResourceInner { kind: Kind::Account, path, lineage, store: OnceLock::new() }))
}

/// What is asked about: a database or something in it, or a login on a host.
#[derive(Clone)]
pub struct Resource(Arc<ResourceInner>);

struct ResourceInner {
    kind: Kind,
    path: String,
    lineage: Lineage,
    /// Made at the first evaluation that needs it: adding to a store is far cheaper than making one.
    store: OnceLock<Entities>,
}

impl Resource {
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The id as a policy writes it, for example `shop/crm/public.customers`.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    pub(crate) fn lineage(&self) -> &Lineage {
        &self.0.lineage
    }

    /// A store that holds this resource alone.
    pub(crate) fn store(&self) -> Result<Entities, String> {
        if let Some(store) = self.0.store.get() {
            return Ok(store.clone());
        }
        let store = Entities::from_entities([self.0.lineage.entity.clone()], None)
            .map_err(|error| error.to_string())?;
        Ok(self.0.store.get_or_init(|| store).clone())
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{:?}", self.kind().as_str(), self.path())
    }
}

/// An entity with all its ancestors.
pub(crate) struct Lineage {
    pub(crate) entity: Entity,
    pub(crate) uid: EntityUid,
    pub(crate) ancestors: Vec<EntityUid>,
}

impl Lineage {
    fn new(uid: EntityUid, ancestors: Vec<EntityUid>) -> Lineage {
        let parents: HashSet<EntityUid> = ancestors.iter().cloned().collect();
        Lineage { entity: Entity::new_no_attrs(uid.clone(), parents), uid, ancestors }
    }
}

/// The entity types of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Group,
    NonHumanIdentity,
    Person,
    Env,
    Target,
    Database,
    Schema,
    Table,
    Routine,
    Column,
    Account,
    Tag,
    Flag,
    Action,
}

impl Kind {
    pub const ALL: [Kind; 14] = [
        Kind::Group,
        Kind::NonHumanIdentity,
        Kind::Person,
        Kind::Env,
        Kind::Target,
        Kind::Database,
        Kind::Schema,
        Kind::Table,
        Kind::Routine,
        Kind::Column,
        Kind::Account,
        Kind::Tag,
        Kind::Flag,
        Kind::Action,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Group => "Group",
            Kind::NonHumanIdentity => "NonHumanIdentity",
            Kind::Person => "Person",
            Kind::Env => "Env",
            Kind::Target => "Target",
            Kind::Database => "Database",
            Kind::Schema => "Schema",
            Kind::Table => "Table",
            Kind::Routine => "Routine",
            Kind::Column => "Column",
            Kind::Account => "Account",
            Kind::Tag => "Tag",
            Kind::Flag => "Flag",
            Kind::Action => "Action",
        }
    }

    pub(crate) fn of(uid: &EntityUid) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| type_name(*kind) == uid.type_name())
    }

    /// How an id of this kind is put together, if it is a path: the separators between its names.
    fn separators(self) -> Option<&'static [char]> {
        match self {
            Kind::Target => Some(&[]),
            Kind::Database | Kind::Account => Some(&['/']),
            Kind::Schema => Some(&['/', '/']),
            Kind::Table | Kind::Routine => Some(&['/', '/', '.']),
            Kind::Column => Some(&['/', '/', '.', '.']),
            Kind::Group
            | Kind::NonHumanIdentity
            | Kind::Person
            | Kind::Env
            | Kind::Tag
            | Kind::Flag
            | Kind::Action => None,
        }
    }

    /// What an id of this kind looks like, for error messages.
    pub(crate) fn shape(self) -> &'static str {
        match self {
            Kind::Target => "Target::\"target\"",
            Kind::Database => "Database::\"target/database\"",
            Kind::Schema => "Schema::\"target/database/schema\"",
            Kind::Table => "Table::\"target/database/schema.table\"",
            Kind::Routine => "Routine::\"target/database/schema.routine\"",
            Kind::Column => "Column::\"target/database/schema.table.column\"",
            Kind::Group => "Group::\"name\"",
            Kind::NonHumanIdentity => "NonHumanIdentity::\"name\"",
            Kind::Person => "Person::\"name\"",
            Kind::Env => "Env::\"name\"",
            Kind::Account => "Account::\"target/login\"",
            Kind::Tag => "Tag::\"name\"",
            Kind::Flag => "Flag::\"name\"",
            Kind::Action => "Action::\"name\"",
        }
    }

    /// The names in an id, outermost first; `None` if no request can ever carry this id.
    pub(crate) fn split(self, id: &str) -> Option<Vec<String>> {
        let Some(separators) = self.separators() else {
            return (!id.is_empty()).then(|| vec![id.to_owned()]);
        };
        let (first, mut rest) = take_ident(id)?;
        let mut names = vec![first];
        for separator in separators {
            let (name, after) = take_ident(rest.strip_prefix(*separator)?)?;
            names.push(name);
            rest = after;
        }
        rest.is_empty().then_some(names)
    }
}

/// Cedar parses a type name; these are parsed once.
static TYPE_NAMES: LazyLock<Vec<EntityTypeName>> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "a constant list of plain identifiers, parsed in every test")]
    Kind::ALL.iter().map(|kind| EntityTypeName::from_str(kind.as_str()).expect("an identifier")).collect()
});

fn type_name(kind: Kind) -> &'static EntityTypeName {
    #[expect(clippy::indexing_slicing, reason = "one name per kind, in the order of the declaration")]
    &TYPE_NAMES[kind as usize]
}

pub(crate) fn uid(kind: Kind, id: String) -> EntityUid {
    EntityUid::from_type_name_and_id(type_name(kind).clone(), EntityId::new(id))
}

/// An identifier is written bare unless it contains what separates identifiers; then it is quoted as SQL quotes it.
/// Without this, schema `a` table `b.c` and schema `a.b` table `c` would be one resource.
fn push_ident(path: &mut String, ident: &str) {
    if !ident.is_empty() && !ident.contains(['.', '/', '"']) {
        path.push_str(ident);
        return;
    }
    path.push('"');
    path.push_str(&ident.replace('"', "\"\""));
    path.push('"');
}

/// Reverses [`push_ident`]. Quotes that were not needed are refused: the id would equal no request's.
fn take_ident(path: &str) -> Option<(String, &str)> {
    let Some(quoted) = path.strip_prefix('"') else {
        let (bare, rest) = path.split_at(path.find(['.', '/', '"']).unwrap_or(path.len()));
        return (!bare.is_empty()).then(|| (bare.to_owned(), rest));
    };
    let mut ident = String::new();
    let mut rest = quoted;
    loop {
        let (piece, after) = rest.split_once('"')?;
        ident.push_str(piece);
        rest = match after.strip_prefix('"') {
            Some(more) => {
                ident.push('"');
                more
            }
            None => {
                let needed = ident.is_empty() || ident.contains(['.', '/', '"']);
                return needed.then_some((ident, after));
            }
        };
    }
}
