//! The name an output column gets when it has no alias, as the server's `FigureColname` chooses it.

use pg_raw_parse::raw::{A_Expr_Kind, JsonExprOp, MinMaxOp, SQLValueFunctionOp, SubLinkType, XmlExprOp};
use pg_raw_parse::{Node, nodes};

use super::scope::Name;

const UNNAMED: &str = "?column?";

/// The name of a target, alias first.
pub(super) fn target_name<'a>(target: &'a nodes::ResTarget, version: u32) -> Name<'a> {
    if let Some(alias) = target.name() {
        return Name::Given(alias);
    }
    if let Node::ColumnRef(reference) = target.val() {
        return Name::Given(last(reference.fields()).unwrap_or(UNNAMED));
    }
    Name::Figured(figure(target.val(), version).0)
}

/// The name of a function in FROM that is not written as a call.
pub(super) fn expression_name(node: Node<'_>, version: u32) -> &str {
    figure(node, version).0
}

fn last(names: &pg_raw_parse::list::NodeList) -> Option<&str> {
    names.iter().filter_map(Node::as_str).next_back()
}

/// The name and how good it is: 0 none, 1 weak (a type's name), 2 strong.
fn figure(node: Node<'_>, version: u32) -> (&str, u8) {
    // Casts, collations and subscripts pass the name of what they apply to.
    let mut node = node;
    let mut weak = None;
    loop {
        match node {
            Node::A_Indirection(it) => match last(it.indirection()) {
                Some(name) => return (name, 2),
                None => node = it.arg(),
            },
            Node::TypeCast(it) => {
                let name = it
                    .type_name()
                    .and_then(|name| name.names().iter().next_back())
                    .and_then(|name| name.sval());
                weak = weak.or(name);
                node = it.arg();
            }
            Node::CollateClause(it) => node = it.arg(),
            Node::CaseExpr(it) => {
                weak = weak.or(Some("case"));
                node = it.defresult();
            }
            _ => break,
        }
    }
    match (strong(node, version), weak) {
        (Some(name), _) => (name, 2),
        (None, Some(name)) => (name, 1),
        (None, None) => (UNNAMED, 0),
    }
}

fn strong(node: Node<'_>, version: u32) -> Option<&str> {
    Some(match node {
        Node::ColumnRef(it) => return last(it.fields()),
        Node::FuncCall(it) => match last(it.funcname())? {
            "extract" if version < 140_000 => "date_part",
            name => name,
        },
        Node::A_Expr(it) if it.kind == A_Expr_Kind::AEXPR_NULLIF => "nullif",
        Node::GroupingFunc(_) => "grouping",
        Node::MergeSupportFunc(_) => "merge_action",
        Node::SubLink(it) => match it.sub_link_type {
            SubLinkType::EXISTS_SUBLINK => "exists",
            SubLinkType::ARRAY_SUBLINK => "array",
            SubLinkType::EXPR_SUBLINK => return sub_select(it.subselect(), version),
            _ => return None,
        },
        Node::A_ArrayExpr(_) => "array",
        Node::RowExpr(_) => "row",
        Node::CoalesceExpr(_) => "coalesce",
        Node::MinMaxExpr(it) if it.op == MinMaxOp::IS_GREATEST => "greatest",
        Node::MinMaxExpr(_) => "least",
        Node::SQLValueFunction(it) => sql_value(it.op),
        Node::XmlExpr(it) => return xml(it.op),
        Node::XmlSerialize(_) => "xmlserialize",
        Node::JsonParseExpr(_) => "json",
        Node::JsonScalarExpr(_) => "json_scalar",
        Node::JsonSerializeExpr(_) => "json_serialize",
        Node::JsonObjectConstructor(_) => "json_object",
        Node::JsonArrayConstructor(_) | Node::JsonArrayQueryConstructor(_) => "json_array",
        Node::JsonObjectAgg(_) => "json_objectagg",
        Node::JsonArrayAgg(_) => "json_arrayagg",
        Node::JsonFuncExpr(it) => match it.op {
            JsonExprOp::JSON_EXISTS_OP => "json_exists",
            JsonExprOp::JSON_QUERY_OP => "json_query",
            _ => "json_value",
        },
        _ => return None,
    })
}

/// A scalar sub-select is named after its column.
fn sub_select(node: Node<'_>, version: u32) -> Option<&str> {
    let Node::SelectStmt(mut select) = node else { return None };
    while let Some(left) = select.larg() {
        select = left;
    }
    let target = select.target_list().iter().next()?;
    match target.name() {
        Some(alias) => Some(alias),
        None => Some(figure(target.val(), version).0),
    }
}

fn sql_value(op: SQLValueFunctionOp::Type) -> &'static str {
    match op {
        SQLValueFunctionOp::SVFOP_CURRENT_DATE => "current_date",
        SQLValueFunctionOp::SVFOP_CURRENT_TIME | SQLValueFunctionOp::SVFOP_CURRENT_TIME_N => "current_time",
        SQLValueFunctionOp::SVFOP_CURRENT_TIMESTAMP | SQLValueFunctionOp::SVFOP_CURRENT_TIMESTAMP_N => {
            "current_timestamp"
        }
        SQLValueFunctionOp::SVFOP_LOCALTIME | SQLValueFunctionOp::SVFOP_LOCALTIME_N => "localtime",
        SQLValueFunctionOp::SVFOP_LOCALTIMESTAMP | SQLValueFunctionOp::SVFOP_LOCALTIMESTAMP_N => {
            "localtimestamp"
        }
        SQLValueFunctionOp::SVFOP_CURRENT_ROLE => "current_role",
        SQLValueFunctionOp::SVFOP_CURRENT_USER => "current_user",
        SQLValueFunctionOp::SVFOP_USER => "user",
        SQLValueFunctionOp::SVFOP_SESSION_USER => "session_user",
        SQLValueFunctionOp::SVFOP_CURRENT_CATALOG => "current_catalog",
        SQLValueFunctionOp::SVFOP_CURRENT_SCHEMA => "current_schema",
        _ => UNNAMED,
    }
}

fn xml(op: XmlExprOp::Type) -> Option<&'static str> {
    Some(match op {
        XmlExprOp::IS_XMLCONCAT => "xmlconcat",
        XmlExprOp::IS_XMLELEMENT => "xmlelement",
        XmlExprOp::IS_XMLFOREST => "xmlforest",
        XmlExprOp::IS_XMLPARSE => "xmlparse",
        XmlExprOp::IS_XMLPI => "xmlpi",
        XmlExprOp::IS_XMLROOT => "xmlroot",
        XmlExprOp::IS_XMLSERIALIZE => "xmlserialize",
        _ => return None,
    })
}
