//! Texts that differ only in the values they compare and compute with.
//!
//! A plain number or string that is an operand of `=` or `+` and their like is one leaf of the parse tree, and no rule of
//! the analysis looks at its value: texts that are equal but for such leaves are analysed alike, so one analysis
//! serves them all. Positions (`LIMIT 5`, `ORDER BY 1`), arguments, lists and everything that is not certain to be such an
//! operand stay in the shape as they are written.

use crate::statement::{Class, NameOp, Statement};

/// Operators behind which a plain constant is an operand, whatever stands before them.
const OPERATORS: [&[u8]; 11] = [b"=", b"<", b">", b"<=", b">=", b"<>", b"!=", b"+", b"*", b"/", b"%"];

/// Bytes of which operators are made, and `:` for `:=` and `::`.
const OPERATOR: &[u8] = b"~!@#^&|`?+-*/%<>=:";

/// Digits that are an `int4` however they are written.
const DIGITS_MAX: usize = 9;

/// What stands for a value in a shape. No text that has a shape holds a NUL.
const NUMBER: &str = "\0n";
const STRING: &str = "\0s";

/// Whether what was found in a text holds for all texts of its shape: one statement that reads or writes rows, and keeps
/// nothing of its text for later.
#[must_use]
pub fn shared_by_shape(statements: &[Statement]) -> bool {
    use Class::{Delete, Insert, Merge, Select, Update};
    let [statement] = statements else { return false };
    matches!(statement.class, Select | Insert | Update | Delete | Merge)
        && statement.names == NameOp::None
        && statement.copy.is_none()
        && statement.transaction.is_none()
}

/// Writes `sql` with every such value replaced to `shape`; false when there is none, or the text has anything in it
/// (comments, dollar quotes, backslashes, parameters) with which its tokens cannot be told at a glance.
#[must_use]
pub fn shape(sql: &str, shape: &mut String) -> bool {
    shape.clear();
    let bytes = sql.as_bytes();
    let (mut at, mut copied, mut any) = (0, 0, false);
    // The run of operator bytes before `at`, with only blanks between.
    let mut operator: &[u8] = &[];
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                at += 1;
                continue;
            }
            b'\\' | b'$' | 0 => return false,
            b'\'' | b'"' => {
                // A doubled quote is two strings here, the second one behind the first: it stays as it is written.
                let Some(len) =
                    bytes.get(at + 1..).and_then(|rest| rest.iter().position(|other| *other == byte))
                else {
                    return false;
                };
                at += len + 2;
                if bytes.get(start..at).is_none_or(|text| text.contains(&b'\\') || text.contains(&0)) {
                    return false;
                }
                if byte == b'\'' && bytes.get(at) != Some(&byte) && OPERATORS.contains(&operator) {
                    shape.push_str(sql.get(copied..start).unwrap_or_default());
                    shape.push_str(STRING);
                    (copied, any) = (at, true);
                }
            }
            b'0'..=b'9' => {
                at = end_of(bytes, at, |byte| byte.is_ascii_digit());
                let ends = bytes.get(at).is_none_or(|next| !goes_on(*next));
                if ends && at - start <= DIGITS_MAX && OPERATORS.contains(&operator) {
                    shape.push_str(sql.get(copied..start).unwrap_or_default());
                    shape.push_str(NUMBER);
                    (copied, any) = (at, true);
                } else {
                    at = end_of(bytes, at, goes_on);
                }
            }
            _ if OPERATOR.contains(&byte) => {
                at = end_of(bytes, at, |byte| OPERATOR.contains(&byte));
                let run = bytes.get(start..at).unwrap_or_default();
                if run.windows(2).any(|two| two == b"--" || two == b"/*") {
                    return false;
                }
                operator = run;
                continue;
            }
            _ if goes_on(byte) => at = end_of(bytes, at, goes_on),
            _ => at += 1,
        }
        operator = &[];
    }
    if any {
        shape.push_str(sql.get(copied..).unwrap_or_default());
    }
    any
}

/// Bytes that lengthen a number or a name.
fn goes_on(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.' || byte >= 0x80
}

fn end_of(bytes: &[u8], from: usize, more: impl Fn(u8) -> bool) -> usize {
    let len = bytes.get(from..).unwrap_or_default().iter().position(|byte| !more(*byte));
    len.map_or(bytes.len(), |len| from + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_left_out_and_everything_else_stays() {
        let shape_of = |sql: &str| {
            let mut text = String::new();
            shape(sql, &mut text).then(|| text.replace("\0n", "<n>").replace("\0s", "<s>"))
        };
        for (sql, wanted) in [
            ("SELECT a FROM t WHERE id = 4242;", Some("SELECT a FROM t WHERE id = <n>;")),
            (
                "UPDATE t SET a = a + 5 WHERE b='x' AND c<>\n7",
                Some("UPDATE t SET a = a + <n> WHERE b=<s> AND c<>\n<n>"),
            ),
            (
                "SELECT a % 10, \"b\" FROM t WHERE c >= '' LIMIT 5",
                Some("SELECT a % <n>, \"b\" FROM t WHERE c >= <s> LIMIT 5"),
            ),
            // Positions, arguments and lists.
            ("SELECT f(5, 'x') FROM t GROUP BY 1 ORDER BY 2 LIMIT 3", None),
            ("SELECT f(a => 5), f(a := 5), -5, a = -5, 'x'", None),
            ("SELECT a FROM t WHERE b IN (1, 2) OR c LIKE 'x' OR d || 'x' ~ 'y' OR e = ANY ('{1}')", None),
            // Numbers of another kind, and names that begin like them.
            ("SELECT a = 1.5, a = 1e5, a = 0x1F, a = 1_000, a = 1234567890, a = .5, a = 5x", None),
            // Strings of another kind.
            ("SELECT a = E'x', a = 'it''s', a = U&'x', a = B'1'", None),
            // What cannot be told at a glance.
            ("SELECT a = 5 -- = 6", None),
            ("SELECT a = 5 /* = 6 */", None),
            ("SELECT a =-- b\n5, c = 5", None),
            ("SELECT a = 5, $$ = 6 $$", None),
            ("SELECT a = $1, b = 5", None),
            ("SELECT a = 'b\\', c = 5", None),
            ("SELECT a = 5, 'open", None),
            ("SELECT a = 5\0", None),
        ] {
            assert_eq!(shape_of(sql).as_deref(), wanted, "{sql}");
        }
    }
}
