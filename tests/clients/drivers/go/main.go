// Go's drivers, which speak the protocol themselves. The first argument says which, or to verify certificates.
package main

import (
	"fmt"
	"log"
	"os"
	"strings"
)

const (
	count   = "select count(*) from customers where id > $1"
	row     = "select id, name, email, card, born from customers where id = $1"
	order   = "select id, customer_id, cents, placed, item from orders where id = $1"
	copyOut = "copy (select id, email from customers where id < 3 order by id) to stdout"
	scratch = "select count(*) from scratch where word = $1"
	// Longer than anybody waits.
	endless = "select count(*) from generate_series(1, 4000000000)"
)

func must(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}

func check(right bool, seen ...interface{}) {
	if !right {
		log.Output(2, fmt.Sprintln(seen...))
		os.Exit(1)
	}
}

// The fields of a customer as every driver's program says them.
func customer(id int, name, email, card string, born interface{}) string {
	if born == nil {
		born = "null"
	}
	return fmt.Sprintln(id, name, email, card, born)
}

func say(words ...interface{}) {
	said := make([]string, len(words))
	for n, word := range words {
		said[n] = strings.TrimSpace(fmt.Sprint(word))
	}
	fmt.Println(strings.Join(said, " | "))
}

func main() {
	log.SetFlags(log.Lshortfile)
	where := fmt.Sprintf("host=%s port=%s user=%s dbname=%s", os.Args[2], os.Args[3], os.Args[4], os.Args[5])
	switch os.Args[1] {
	case "pgx":
		pgxSteps(where)
	case "pq":
		pqSteps(where)
	case "verified":
		fmt.Println("pgx", pgxVerified(where))
		fmt.Println("pq", pqVerified(where))
	}
}
