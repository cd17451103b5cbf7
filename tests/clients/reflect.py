# What SQLAlchemy finds in a schema: tables, columns, types, keys, indexes, views.
import sys

import sqlalchemy

host, port, user, database = sys.argv[1:5]
engine = sqlalchemy.create_engine(f"postgresql+psycopg2://{user}@{host}:{port}/{database}")
inspector = sqlalchemy.inspect(engine)
for schema in ("app", "other"):
    for table in sorted(inspector.get_table_names(schema)):
        columns = [(column["name"], str(column["type"])) for column in inspector.get_columns(table, schema)]
        print(table, columns, inspector.get_pk_constraint(table, schema)["constrained_columns"])
        print(inspector.get_foreign_keys(table, schema), inspector.get_unique_constraints(table, schema))
        print(inspector.get_indexes(table, schema), inspector.get_check_constraints(table, schema))
    for view in sorted(inspector.get_view_names(schema)):
        print(view, inspector.get_view_definition(view, schema))
print(inspector.get_enums("app"), inspector.get_schema_names())
print("done")
