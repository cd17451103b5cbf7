# Tcl's TDBC: over libpq, with types of parameters that it asks the server for.
package require tdbc::postgres

lassign $argv host port user database
tdbc::postgres::connection create c -host $host -port $port -user $user -database $database
proc one {sql {values {}}} { lindex [c allrows -as lists $sql $values] 0 }
set said [list [one {select count(*) from customers where id > 0}]]
set prepared [c prepare {select id, name, email, card, born from customers where id = :id}]
$prepared paramtype id integer
for {set n 0} {$n < 12} {incr n} {
    # A NULL has no place in a dictionary.
    set row [lindex [$prepared allrows -as dicts {id 1}] 0]
    if {[dict exists $row born]} { error "born: $row" }
    lappend rows "[join [dict values $row]] null"
}
if {[llength [lsort -unique $rows]] != 1} { error $rows }
lappend said [lindex $rows 0]
lassign [one {select id, customer_id, cents, placed, item from orders where id = :id} {id 5}] id customer cents placed item
clock scan [string range $placed 0 18] -format {%Y-%m-%d %H:%M:%S}
lappend said "$id $customer $cents $item"
c begintransaction
if {![catch {one {truncate customers}} message options]} { error "it truncates" }
lappend said [lindex [dict get $options -errorcode] 2]
c rollback
lappend said [one {select count(*) from orders}] -
c begintransaction
set insert [c prepare {insert into scratch (word) values (:word)}]
for {set n 0} {$n < 1000} {incr n} { $insert execute {word driver-tcl} }
lappend said [one {select count(*) from scratch where word = :word} {word driver-tcl}]
c rollback
if {![dict exists [c tables] customers]} { error [c tables] }
if {[lsort [dict keys [c columns customers]]] ne {born card country email id name notes}} { error [c columns customers] }
c close
puts [join $said { | }]
