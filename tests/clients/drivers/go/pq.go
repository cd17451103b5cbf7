package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"
)

func pqConnect(where string) *sql.DB {
	db, err := sql.Open("postgres", where)
	must(err)
	db.SetMaxOpenConns(1)
	return db
}

// Behind database/sql: statements prepared for each use, kept, and sent whole with binary values.
func pqSteps(where string) {
	var said []interface{}
	for _, way := range []string{"", " binary_parameters=yes"} {
		now := pqWay(pqConnect(where + way))
		check(said == nil || fmt.Sprint(said) == fmt.Sprint(now), said, now)
		said = now
	}
	pqListens(where)
	pqCancels(where)
	say(said...)
}

func pqWay(db *sql.DB) []interface{} {
	defer db.Close()
	number := func(sql string, values ...interface{}) int {
		var n int
		must(db.QueryRow(sql, values...).Scan(&n))
		return n
	}
	said := []interface{}{number(count, 0)}
	prepared, err := db.Prepare(row)
	must(err)
	rows := make(map[string]bool)
	for n := 0; n < 12; n++ {
		ask := func() *sql.Row { return db.QueryRow(row, 1) }
		if n%2 == 0 {
			ask = func() *sql.Row { return prepared.QueryRow(1) }
		}
		var id int
		var name, email, card string
		var born sql.NullTime
		must(ask().Scan(&id, &name, &email, &card, &born))
		check(!born.Valid, born)
		rows[customer(id, name, email, card, nil)] = true
	}
	check(len(rows) == 1, rows)
	for line := range rows {
		said = append(said, line)
	}
	var id, customerId, cents int64
	var placed time.Time
	var item string
	must(db.QueryRow(order, 5).Scan(&id, &customerId, &cents, &placed, &item))
	check(placed.Year() > 2020, placed)
	said = append(said, fmt.Sprint(id, " ", customerId, " ", cents, " ", item))

	tx, err := db.Begin()
	must(err)
	_, err = tx.Exec("truncate customers")
	var denied *pq.Error
	check(errors.As(err, &denied), err)
	said = append(said, string(denied.Code))
	must(tx.Rollback())
	said = append(said, number("select count(*) from orders"))

	// It copies in, not out.
	tx, err = db.Begin()
	must(err)
	in, err := tx.Prepare(pq.CopyIn("scratch", "word"))
	must(err)
	for n := 0; n < 1000; n++ {
		_, err = in.Exec("driver-pq")
		must(err)
	}
	_, err = in.Exec()
	must(err)
	must(in.Close())
	var copied int
	must(tx.QueryRow(scratch, "driver-pq").Scan(&copied))
	said = append(said, "-", copied)
	must(tx.Rollback())

	// Several statements in a string: one result after the other, and all or none.
	results, err := db.Query("select email from customers where id = 1; select count(*) from orders")
	must(err)
	for _, expect := range []string{"***", "40"} {
		var seen string
		check(results.Next(), results.Err())
		must(results.Scan(&seen))
		check(seen == expect, seen)
		check(!results.Next(), "another row")
		check(results.NextResultSet() == (expect == "***"), "results")
	}
	must(results.Close())
	return said
}

func pqListens(where string) {
	ear := pq.NewListener(where, time.Second, time.Minute, nil)
	defer ear.Close()
	must(ear.Listen("pq_news"))
	_, err := pqConnect(where).Exec("notify pq_news, 'word'")
	must(err)
	select {
	case heard := <-ear.Notify:
		check(heard != nil && heard.Channel == "pq_news" && heard.Extra == "", heard)
	case <-time.After(20 * time.Second):
		check(false, "nothing was heard")
	}
	must(ear.Ping())
}

// A context that ends asks the server to stop, on a connection of its own; what was used is replaced.
func pqCancels(where string) {
	db := pqConnect(where)
	defer db.Close()
	ctx, end := context.WithTimeout(context.Background(), time.Second)
	defer end()
	_, err := db.ExecContext(ctx, endless)
	var cancelled *pq.Error
	check(errors.As(err, &cancelled) && cancelled.Code == "57014", err)
	must(db.QueryRow("select count(*) from orders").Scan(new(int)))
}

// By the system's store of authorities.
func pqVerified(where string) string {
	var email string
	err := pqConnect(where + " sslmode=verify-full").QueryRow("select email from customers where id = 1").Scan(&email)
	if err != nil && strings.Contains(err.Error(), "unknown authority") {
		return "does not trust"
	}
	must(err)
	return email
}
