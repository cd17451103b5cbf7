//! What a decision costs: `cargo run --release -p chaperone-policy --example cost`.
//!
//! Prints the median over rounds, in nanoseconds per call on one thread. No target, no verdict.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "prints a table; a broken example may stop")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use chaperone_policy::{
    Action, Approval, Database, Flag, Kept, PolicySet, Principal, Request, STARTER, Source,
};

/// Short ones, and many: where others want the processor, too, most of them run through.
const ROUNDS: usize = 301;
const CALLS: u128 = 50;

fn main() {
    let starter: Vec<Source> = STARTER.iter().map(|(name, text)| Source::new(*name, *text)).collect();
    println!("{:<44} {:>12} {:>12} {:>12}", "", "starter", "+1,000", "+10,000");
    let sets: Vec<PolicySet> = [0, 1_000, 10_000].iter().map(|more| load(&starter, *more)).collect();

    let bot = Principal::new("billing-bot", ["ai-agents", "staging", "night-shift"]);
    let shop = Database::new("shop", "prod", "crm");
    let table = shop.table("public", "customers");
    let email = shop.column("public", "customers", "email", &["pii"]);
    let tables = [table.clone()];
    let approvals = [Approval {
        by: "anna".into(),
        groups: ["approvers".to_owned()].into(),
        statement_hash: "hash".into(),
        age: std::time::Duration::from_secs(5),
    }];
    let select = Request { tables: &tables, ..Request::new(&bot, Action::Select, &table) };
    let update = Request { action: Action::Update, statement_hash: "hash", ..select };

    // As a session keeps them: by what a statement touches and its flags.
    let mut kept = Kept::default();
    let facts = || (Action::Select, "public".to_owned(), "customers".to_owned(), Vec::<Flag>::new());
    row(&sets, "select, decided before", |set| kept.decision(facts(), |_| set.decide(&select)));
    row(&sets, "select, permitted by scope alone", |set| set.decide(&select));
    row(&sets, "update, held; one condition evaluated", |set| set.decide(&update));
    row(&sets, "update, approved", |set| set.decide(&Request { approvals: &approvals, ..update }));
    row(&sets, "update, no_where: denied", |set| set.decide(&Request { flags: &[Flag::NoWhere], ..update }));
    row(&sets, "ddl, denied by scope alone", |set| set.decide(&Request { action: Action::Ddl, ..select }));
    row(&sets, "listen, default deny with its hint", |set| {
        set.decide(&Request { action: Action::Listen, resource: &shop_resource(&shop), ..select })
    });
    row(&sets, "unmask a column", |set| set.unmask(&bot, &email));
    row(&sets, "building a table's resource", |_| shop.table("public", "customers"));
    row(&sets, "building a principal of three groups", |_| {
        Principal::new("billing-bot", ["ai-agents", "staging", "night-shift"])
    });
}

fn shop_resource(shop: &Database) -> chaperone_policy::Resource {
    shop.resource()
}

/// The starter rules and many that concern other identities, tables and groups; every fourth has a condition.
fn load(starter: &[Source], more: usize) -> PolicySet {
    let mut text = String::new();
    for n in 0..more {
        let (effect, condition) = match n % 4 {
            0 => ("permit", ""),
            1 => ("forbid", ""),
            2 => ("permit", "when { context.flags.contains(Flag::\"star\") }"),
            _ => ("permit", "unless { context.tables.containsAny([Table::\"shop/crm/public.a\"]) }"),
        };
        let who = match n % 3 {
            0 => format!("principal in Group::\"team-{}\"", n / 20),
            1 => format!("principal == NonHumanIdentity::\"bot-{n}\""),
            _ => "principal".to_owned(),
        };
        writeln!(
            text,
            "@id(\"r{n}\") {effect}({who}, action in [Action::\"sql:select\", Action::\"sql:update\"], resource in Table::\"shop/crm/s{}.t{n}\") {condition};",
            n % 50
        )
        .unwrap();
    }
    let sources = [starter, &[Source::new("many.cedar", text)]].concat();
    let start = Instant::now();
    let policies = PolicySet::load(&sources).unwrap();
    println!("loading {} rules took {} ms", policies.ids().count(), start.elapsed().as_millis());
    policies
}

fn row<T>(sets: &[PolicySet], name: &str, mut call: impl FnMut(&PolicySet) -> T) {
    let costs: Vec<String> = sets.iter().map(|set| format!("{:>12}", median(set, &mut call))).collect();
    println!("{name:<44} {}", costs.join(" "));
}

fn median<T>(set: &PolicySet, mut call: impl FnMut(&PolicySet) -> T) -> u128 {
    let mut rounds: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..CALLS {
                black_box(call(black_box(set)));
            }
            start.elapsed().as_nanos() / CALLS
        })
        .collect();
    rounds.sort_unstable();
    rounds.get(ROUNDS / 2).copied().unwrap_or_default()
}
