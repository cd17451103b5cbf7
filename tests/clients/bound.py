# One statement with one bind value, by the extended protocol: prints how many rows it touched, or the error.
import sys
import psycopg

host, port, user, database, statement, value = sys.argv[1:]
with psycopg.connect(host=host, port=port, user=user, dbname=database, autocommit=True) as connection:
    try:
        print(connection.execute(statement, [value]).rowcount)
    except psycopg.Error as error:
        print(error.sqlstate, error)
