package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
)

func pgxConnect(where string) *pgx.Conn {
	c, err := pgx.Connect(context.Background(), where)
	must(err)
	return c
}

// Names each statement after its text, or only has it described; binary results, and text in the simple protocol.
func pgxSteps(where string) {
	ways := []string{"", " statement_cache_mode=describe", " statement_cache_capacity=0", " prefer_simple_protocol=true"}
	var said []interface{}
	for _, way := range ways {
		now := pgxWay(where+way, strings.Contains(way, "simple"))
		check(said == nil || fmt.Sprint(said) == fmt.Sprint(now), said, now)
		said = now
	}
	pgxBatch(where)
	pgxListens(where)
	pgxCancels(where)
	say(said...)
}

func pgxWay(where string, simple bool) []interface{} {
	ctx := context.Background()
	c := pgxConnect(where)
	defer c.Close(ctx)
	number := func(sql string, values ...interface{}) string {
		var n int64
		must(c.QueryRow(ctx, sql, values...).Scan(&n))
		return strconv.FormatInt(n, 10)
	}
	said := []interface{}{number(count, 0)}
	rows := make(map[string]bool)
	for n := 0; n < 12; n++ {
		values := []interface{}{1}
		if !simple {
			// Text, binary, and what the driver likes best.
			values = [][]interface{}{{pgx.QueryResultFormats{0}, 1}, {pgx.QueryResultFormats{1}, 1}, {1}}[n%3]
		}
		var id int
		var name, email, card string
		var born *time.Time
		must(c.QueryRow(ctx, row, values...).Scan(&id, &name, &email, &card, &born))
		check(born == nil, "born", born)
		rows[customer(id, name, email, card, nil)] = true
	}
	check(len(rows) == 1, rows)
	for line := range rows {
		said = append(said, line)
	}
	var id, customerId int32
	var cents int64
	var placed time.Time
	var item string
	must(c.QueryRow(ctx, order, 5).Scan(&id, &customerId, &cents, &placed, &item))
	check(placed.Year() > 2020, placed)
	said = append(said, fmt.Sprint(id, " ", customerId, " ", cents, " ", item))

	tx, err := c.Begin(ctx)
	must(err)
	_, err = tx.Exec(ctx, "truncate customers")
	var denied *pgconn.PgError
	check(errors.As(err, &denied), err)
	said = append(said, denied.Code)
	must(tx.Rollback(ctx))
	said = append(said, number("select count(*) from orders"))

	var out bytes.Buffer
	_, err = c.PgConn().CopyTo(ctx, &out, copyOut)
	must(err)
	said = append(said, strings.Join(strings.Fields(out.String()), " "))
	tx, err = c.Begin(ctx)
	must(err)
	words := make([][]interface{}, 1000)
	for n := range words {
		words[n] = []interface{}{"driver-pgx"}
	}
	// Asks for the types of the columns, then copies in binary.
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"scratch"}, []string{"word"}, pgx.CopyFromRows(words))
	must(err)
	said = append(said, number(scratch, "driver-pgx"))
	must(tx.Rollback(ctx))
	return said
}

// A pipeline: one denied, and what was sent behind it is not done.
func pgxBatch(where string) {
	ctx := context.Background()
	c := pgxConnect(where)
	defer c.Close(ctx)
	batch := &pgx.Batch{}
	batch.Queue("select email from customers where id = $1", 1)
	batch.Queue("insert into scratch (word) values ($1)", "driver-pgx-batch")
	batch.Queue("select name from customers where email = $1", "x")
	batch.Queue("insert into scratch (word) values ($1)", "driver-pgx-batch")
	results := c.SendBatch(ctx, batch)
	var email string
	err := results.QueryRow().Scan(&email)
	if err == nil {
		check(email == "***", email)
		_, err = results.Exec()
		must(err)
		_, err = results.Exec()
	}
	var denied *pgconn.PgError
	check(errors.As(err, &denied) && denied.Code == "42501", err)
	results.Close()
	var n int
	must(c.QueryRow(ctx, scratch, "driver-pgx-batch").Scan(&n))
	check(n == 0, "of a batch that was denied, rows stay:", n)
	batch = &pgx.Batch{}
	for n := 0; n < 20; n++ {
		batch.Queue("select email, card, id from customers where id = $1", n%5+1)
	}
	results = c.SendBatch(ctx, batch)
	for n := 0; n < 20; n++ {
		var card string
		var id int
		must(results.QueryRow().Scan(&email, &card, &id))
		check(email == "***" && card == "***" && id == n%5+1, email, card, id)
	}
	must(results.Close())
}

func pgxListens(where string) {
	ctx, end := context.WithTimeout(context.Background(), 20*time.Second)
	defer end()
	ear, mouth := pgxConnect(where), pgxConnect(where)
	_, err := ear.Exec(ctx, "listen pgx_news")
	must(err)
	_, err = mouth.Exec(ctx, "notify pgx_news, 'word'")
	must(err)
	heard, err := ear.WaitForNotification(ctx)
	must(err)
	// Where something is masked, the payload stays with the agent.
	check(heard.Channel == "pgx_news" && heard.Payload == "", heard)
}

func pgxCancels(where string) {
	ctx := context.Background()
	c := pgxConnect(where)
	done := make(chan bool)
	go func() {
		// Until one comes while the statement runs.
		for {
			select {
			case <-done:
				return
			case <-time.After(200 * time.Millisecond):
				_ = c.PgConn().CancelRequest(ctx)
			}
		}
	}()
	_, err := c.Exec(ctx, endless)
	var cancelled *pgconn.PgError
	check(errors.As(err, &cancelled) && cancelled.Code == "57014", err)
	done <- true
	// A context that ends takes the connection with it, and no other.
	soon, end := context.WithTimeout(ctx, 200*time.Millisecond)
	defer end()
	c = pgxConnect(where)
	_, err = c.Exec(soon, endless)
	check(err != nil && c.IsClosed(), err)
	must(pgxConnect(where).Ping(ctx))
}

// By the system's store of authorities.
func pgxVerified(where string) string {
	ctx := context.Background()
	c, err := pgx.Connect(ctx, where+" sslmode=verify-full")
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) || err != nil && strings.Contains(err.Error(), "unknown authority") {
		return "does not trust"
	}
	must(err)
	var email string
	must(c.QueryRow(ctx, "select email from customers where id = 1").Scan(&email))
	return email
}
