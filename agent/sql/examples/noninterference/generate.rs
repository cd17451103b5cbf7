//! Random queries over the fixture. The generator keeps track of what is in scope, so that most of them run, and reuses
//! few names for everything, so that scopes collide.

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..10 {
            random.below(2);
        }
        random
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % limit.max(1)
    }

    pub(crate) fn one<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    /// True once in `times`.
    pub(crate) fn once(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// A FROM item: the name it goes by and its columns.
#[derive(Clone)]
struct Source {
    name: String,
    columns: Vec<String>,
}

/// Text of a query and the names of its columns.
struct Query {
    sql: String,
    columns: Vec<String>,
}

const TABLES: &[(&str, &str, &str)] = &[
    ("users", "users", "id name email ssn token pin dob"),
    ("users", "users", "id name email ssn token pin dob"),
    ("app.users", "users", "id name email ssn token pin dob"),
    ("child", "child", "id name email ssn token pin dob"),
    ("part", "part", "id token"),
    ("v_users", "v_users", "id name t"),
    ("mv_users", "mv_users", "id token"),
    ("v_over", "v_over", "u id"),
    ("v_plain", "v_plain", "id name"),
    ("v_low", "v_low", "id low"),
    ("v_union", "v_union", "id x"),
    ("v_clean", "v_clean", "id b n"),
    ("\"Users Q\"", "\"Users Q\"", "\"Token\""),
    ("members", "members", "id org_id badge nick tag code born"),
    ("gen", "gen", "id token upper_token twice"),
    ("log", "log", "m n"),
    ("clean", "clean", "id a b"),
    ("other", "other", "id token note"),
    ("other.users", "users", "id token name"),
    ("orgs", "orgs", "id name"),
];
const NAMES: &[&str] = &["token", "id", "name", "x", "t", "u", "users"];

pub(crate) fn statement(random: Random) -> (String, Random) {
    let mut generator = Generator { random, scopes: Vec::new(), ctes: Vec::new() };
    let sql = generator.statement();
    (sql, generator.random)
}

struct Generator {
    random: Random,
    scopes: Vec<Vec<Source>>,
    ctes: Vec<Source>,
}

impl Generator {
    fn statement(&mut self) -> String {
        let users = Source { name: "users".to_owned(), columns: words("id name email ssn token pin dob") };
        match self.random.below(12) {
            0 => {
                self.scopes.push(vec![users]);
                let from = self.from(2);
                let (set, filter) = (self.text_value(1), self.filter(1));
                let returning = self.returning();
                format!("UPDATE users SET name = {set} FROM {from}{filter}{returning}")
            }
            1 => {
                let query = self.query(2);
                self.scopes.push(vec![Source { name: "log".to_owned(), columns: words("m n") }]);
                let column = query.columns.len() == 1;
                let returning = self.returning();
                format!("INSERT INTO log{} {}{returning}", if column { "(m)" } else { "" }, query.sql)
            }
            2 => {
                self.scopes.push(vec![users]);
                let using = self.from(2);
                let (filter, returning) = (self.filter(1), self.returning());
                format!("DELETE FROM users USING {using}{filter}{returning}")
            }
            3 => {
                let excluded =
                    Source { name: "excluded".to_owned(), columns: words("id name email ssn token pin dob") };
                self.scopes.push(vec![users.clone(), excluded]);
                let value = self.text_value(1);
                self.scopes = vec![vec![users]];
                let returning = self.returning();
                format!(
                    "INSERT INTO users(id, name) VALUES (1, 'z') ON CONFLICT (id) DO UPDATE SET name = {value}{returning}"
                )
            }
            4 => {
                let mut list = String::from("WITH d AS (UPDATE users SET name = 'z' WHERE id < 3");
                self.scopes.push(vec![users]);
                let (targets, columns) = self.targets(1);
                self.scopes.pop();
                list.push_str(&format!(" RETURNING {targets}) "));
                self.ctes.push(Source { name: "d".to_owned(), columns });
                list + &self.select(2, 0).sql
            }
            _ => self.query(3).sql,
        }
    }

    fn returning(&mut self) -> String {
        if self.random.once(4) { String::new() } else { format!(" RETURNING {}", self.targets(1).0) }
    }

    /// Any query, with WITH at times.
    fn query(&mut self, depth: usize) -> Query {
        let before = self.ctes.len();
        let mut with = String::new();
        if depth > 0 && self.random.once(4) {
            with = self.with(depth - 1);
        }
        let mut query = if depth > 0 && self.random.once(5) {
            self.set_operation(depth - 1)
        } else {
            self.select(depth, 0)
        };
        self.ctes.truncate(before);
        query.sql.insert_str(0, &with);
        query
    }

    fn with(&mut self, depth: usize) -> String {
        let name = self.random.one(&["users", "w", "x", "other"]).to_owned();
        if self.random.once(2) {
            let left = self.random.one(&[
                "SELECT 'p', token, 1 FROM users",
                "SELECT token, 'p', 1 FROM part",
                "SELECT 'p', 'q', 1",
                "SELECT note, token, 1 FROM other",
            ]);
            let right = self.random.one(&[
                "y, x, z + 1",
                "x, y, z + 1",
                "x, x, z + 1",
                "y, y, z + 1",
                "x, (SELECT token FROM part LIMIT 1), z + 1",
                "(SELECT y), x, z + 1",
            ]);
            let filter = self.random.one(&[
                "z < 3",
                "z < 4",
                "z < 3 AND x <> 'k'",
                "z < 2 AND y IN (SELECT note FROM other)",
            ]);
            let all = self.random.one(&["ALL", "ALL", "ALL", ""]);
            self.ctes.push(Source { name: name.clone(), columns: words("x y z") });
            return format!(
                "WITH RECURSIVE {name}(x, y, z) AS ({left} UNION {all} SELECT {right} FROM {name} WHERE {filter}) "
            );
        }
        let query = self.query(depth);
        let (list, columns) = self.renamed(query.columns);
        self.ctes.push(Source { name: name.clone(), columns });
        format!("WITH {name}{list} AS ({}) ", query.sql)
    }

    fn set_operation(&mut self, depth: usize) -> Query {
        let operation = self.random.one(&[
            "UNION ALL",
            "UNION ALL",
            "UNION ALL",
            "UNION ALL",
            "UNION",
            "EXCEPT",
            "INTERSECT ALL",
        ]);
        let width = 1 + self.random.below(2);
        let (left, right) = (self.select(depth, width), self.select(depth, width));
        let order = if self.random.once(3) {
            format!(" ORDER BY {}", 1 + self.random.below(width))
        } else {
            String::new()
        };
        Query { sql: format!("({}) {operation} ({}){order}", left.sql, right.sql), columns: left.columns }
    }

    /// A plain SELECT; `width` columns of text if it is not 0.
    fn select(&mut self, depth: usize, width: usize) -> Query {
        self.scopes.push(Vec::new());
        let from = if self.random.once(12) { String::new() } else { format!(" FROM {}", self.from(depth)) };
        let (targets, columns) = match width {
            0 => self.targets(depth),
            _ => {
                let list: Vec<(String, String)> = (0..width).map(|_| self.target(depth, true)).collect();
                let texts: Vec<String> = list.iter().map(|(text, _)| text.clone()).collect();
                (texts.join(", "), list.into_iter().map(|(_, name)| name).collect())
            }
        };
        let mut sql = String::from("SELECT ");
        match self.random.below(16) {
            0 => sql.push_str("DISTINCT "),
            1 => sql.push_str(&format!("DISTINCT ON ({}) ", self.key(&columns))),
            _ => {}
        }
        sql.push_str(&targets);
        sql.push_str(&from);
        sql.push_str(&self.filter(depth));
        if self.random.once(4) {
            sql.push_str(&format!(" ORDER BY {}", self.key(&columns)));
        }
        if self.random.once(6) {
            sql.push_str(" LIMIT 5");
        }
        self.scopes.pop();
        Query { sql, columns }
    }

    fn filter(&mut self, depth: usize) -> String {
        if self.random.once(2) {
            String::new()
        } else {
            format!(" WHERE {}", self.condition(depth.saturating_sub(1)))
        }
    }

    /// A FROM list; leaves its items in the current scope.
    fn from(&mut self, depth: usize) -> String {
        let count = 1 + self.random.below(2);
        let mut items = Vec::new();
        for _ in 0..count {
            let (text, sources) = self.item(depth);
            items.push(text);
            if let Some(scope) = self.scopes.last_mut() {
                scope.extend(sources);
            }
        }
        items.join(", ")
    }

    fn item(&mut self, depth: usize) -> (String, Vec<Source>) {
        match self.random.below(if depth == 0 { 3 } else { 10 }) {
            0..=2 => {
                let (text, source) = self.table();
                (text, vec![source])
            }
            3 | 4 => self.derived(depth, false),
            5 => self.derived(depth, true),
            6 => match self.ctes.last().cloned() {
                Some(cte) => {
                    let (alias, source) = self.alias(cte, false);
                    (format!("{}{alias}", source.0), vec![source.1])
                }
                None => self.item(0),
            },
            7 => {
                let argument = self.number();
                (
                    format!("generate_series(1, {argument}) AS g(x)"),
                    vec![Source { name: "g".to_owned(), columns: words("x") }],
                )
            }
            _ => self.join(depth),
        }
    }

    fn table(&mut self) -> (String, Source) {
        let (text, name, columns) = TABLES[self.random.below(TABLES.len())];
        let source = Source { name: name.to_owned(), columns: words(columns) };
        let (alias, (_, source)) = self.alias(source, false);
        (format!("{text}{alias}"), source)
    }

    fn derived(&mut self, depth: usize, lateral: bool) -> (String, Vec<Source>) {
        // What is not LATERAL must not see its siblings; once in a while it tries.
        let hidden = if lateral || self.random.once(8) { None } else { self.scopes.pop() };
        let query = self.query(depth - 1);
        self.scopes.extend(hidden);
        let source = Source { name: String::new(), columns: query.columns };
        let (alias, (_, source)) = self.alias(source, true);
        (format!("{}({}){alias}", if lateral { "LATERAL " } else { "" }, query.sql), vec![source])
    }

    /// An alias at times, at times with column names. Gives back the name before as well.
    fn alias(&mut self, source: Source, forced: bool) -> (String, (String, Source)) {
        let before = source.name.clone();
        if !forced && self.random.once(2) {
            return (String::new(), (before, source));
        }
        let name = self.random.one(&["a", "b", "c", "users", "other", "token", "x"]).to_owned();
        let (list, columns) = self.renamed(source.columns);
        (format!(" AS {name}{list}"), (before, Source { name, columns }))
    }

    fn renamed(&mut self, mut columns: Vec<String>) -> (String, Vec<String>) {
        if columns.is_empty() || !self.random.once(3) {
            return (String::new(), columns);
        }
        let count = 1 + self.random.below(columns.len());
        for column in columns.iter_mut().take(count) {
            *column = self.random.one(NAMES).to_owned();
        }
        (format!("({})", columns[..count].join(", ")), columns)
    }

    fn join(&mut self, depth: usize) -> (String, Vec<Source>) {
        let (left, mut sources) = self.item(depth - 1);
        let kept = self.scopes.last().map_or(0, Vec::len);
        if let Some(scope) = self.scopes.last_mut() {
            scope.extend(sources.iter().cloned());
        }
        let (right, more) = self.item(depth - 1);
        if let Some(scope) = self.scopes.last_mut() {
            scope.truncate(kept);
        }
        let kind = self.random.one(&["JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN"]);
        let in_left = |column: &&String| sources.iter().any(|source| source.columns.contains(column));
        let common: Vec<&String> = more.iter().flat_map(|source| &source.columns).filter(in_left).collect();
        let condition = match self.random.below(6) {
            0 => None,
            1 => return (format!("{left} NATURAL {kind} {right}"), both(sources, more)),
            2 | 3 if !common.is_empty() => {
                let column = common[self.random.below(common.len())];
                let alias = if self.random.once(4) { " AS j" } else { "" };
                return (format!("{left} {kind} {right} USING ({column}){alias}"), both(sources, more));
            }
            _ => Some(()),
        };
        if condition.is_none() {
            sources.extend(more);
            return (format!("{left} CROSS JOIN {right}"), sources);
        }
        let kind = if kind == "FULL JOIN" { "LEFT JOIN" } else { kind };
        let all = both(sources, more);
        let outside = self.scopes.pop().unwrap_or_default();
        self.scopes.push(all.clone());
        let condition = self.condition(0);
        self.scopes.pop();
        self.scopes.push(outside);
        (format!("{left} {kind} {right} ON ({condition})"), all)
    }

    fn targets(&mut self, depth: usize) -> (String, Vec<String>) {
        let count = 1 + self.random.below(3);
        let (mut texts, mut names) = (Vec::new(), Vec::new());
        for _ in 0..count {
            match self.random.below(8) {
                0 if self.scopes.last().is_some_and(|scope| !scope.is_empty()) => {
                    texts.push("*".to_owned());
                    names.extend(
                        self.scopes.last().into_iter().flatten().flat_map(|source| source.columns.clone()),
                    );
                }
                1 => match self.source() {
                    Some(source) => {
                        texts.push(format!("{}.*", source.name));
                        names.extend(source.columns);
                    }
                    None => texts.push("1".to_owned()),
                },
                _ => {
                    let (text, name) = self.target(depth, false);
                    texts.push(text);
                    names.push(name);
                }
            }
        }
        (texts.join(", "), names)
    }

    fn target(&mut self, depth: usize, text: bool) -> (String, String) {
        let value = if text { self.text_value(depth) } else { self.value(depth) };
        let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '"' | ' '));
        if !plain || self.random.once(2) {
            let name = self.random.one(NAMES);
            return (format!("{value} AS {name}"), name.to_owned());
        }
        let name = value.rsplit('.').next().unwrap_or_default().to_owned();
        (value, name)
    }

    fn source(&mut self) -> Option<Source> {
        let depth = self.scopes.len();
        let depth = if self.random.once(4) { self.random.below(depth) } else { depth.checked_sub(1)? };
        let scope = self.scopes.get(depth)?;
        let index = self.random.below(scope.len());
        scope.get(index).cloned()
    }

    fn column(&mut self) -> String {
        let source = self.source();
        let Some(source) = source.filter(|source| !source.columns.is_empty()) else {
            return "'k'".to_owned();
        };
        let column = &source.columns[self.random.below(source.columns.len())];
        if self.random.once(2) || source.name.is_empty() {
            column.clone()
        } else {
            format!("{}.{column}", source.name)
        }
    }

    fn number(&mut self) -> String {
        let source = self.source();
        match source
            .filter(|source| source.columns.iter().any(|column| column == "id") && !source.name.is_empty())
        {
            Some(source) if self.random.once(2) => format!("{}.id", source.name),
            _ => "2".to_owned(),
        }
    }

    fn value(&mut self, depth: usize) -> String {
        match self.random.below(if depth == 0 { 6 } else { 11 }) {
            0..=4 => self.column(),
            5 => "'k'".to_owned(),
            6..=8 => {
                let query = self.select(depth - 1, 1);
                format!("({} LIMIT 1)", query.sql.trim_end_matches(" LIMIT 5"))
            }
            9 => format!("EXISTS ({})", self.query(depth - 1).sql),
            _ => match self.source() {
                Some(source) => source.name,
                None => "1".to_owned(),
            },
        }
    }

    fn text_value(&mut self, depth: usize) -> String {
        let value = self.value(depth);
        if self.random.once(5) { format!("lower({value}::text)") } else { value }
    }

    fn condition(&mut self, depth: usize) -> String {
        match self.random.below(8) {
            0 => format!("{}::text < 'nn'", self.column()),
            1 => format!("{} IS NOT NULL", self.column()),
            2 => format!("EXISTS ({})", self.query(depth).sql),
            3 => "true".to_owned(),
            4 => {
                let column = self.column();
                format!("{column}::text IN ({})", self.select(depth, 1).sql)
            }
            _ => format!("{} = {}", self.number(), self.number()),
        }
    }

    fn key(&mut self, columns: &[String]) -> String {
        match self.random.below(4) {
            0 if !columns.is_empty() => (1 + self.random.below(columns.len())).to_string(),
            1 if !columns.is_empty() => columns[self.random.below(columns.len())].clone(),
            2 => self.random.one(NAMES).to_owned(),
            _ => self.column(),
        }
    }
}

fn both(mut left: Vec<Source>, right: Vec<Source>) -> Vec<Source> {
    left.extend(right);
    left
}

fn words(text: &str) -> Vec<String> {
    if text.starts_with('"') { vec![text.to_owned()] } else { text.split(' ').map(str::to_owned).collect() }
}
