# Perl's DBI with DBD::Pg, over libpq: prepared by the server and not, COPY both ways, savepoints of its own.
use strict;
use warnings;
use DBI;

my ($host, $port, $user, $database) = @ARGV;
my $c = DBI->connect("dbi:Pg:dbname=$database;host=$host;port=$port", $user, "",
    { RaiseError => 1, PrintError => 0, AutoCommit => 0 });
my $row = "select id, name, email, card, born from customers where id = ?";
sub show { join " ", map { defined $_ ? $_ : "null" } @_ }
my @said = ($c->selectrow_array("select count(*) from customers where id > ?", undef, 0));
my %rows;
for my $prepared (0, 1) {
    my $q = $c->prepare($row, { pg_server_prepare => $prepared });
    for (1 .. 6) { $q->execute(1); $rows{show(@{ $q->fetchrow_arrayref })} = 1; $q->finish }
}
die join ", ", keys %rows if keys %rows > 1;
push @said, keys %rows;
my @order = $c->selectrow_array("select id, customer_id, cents, placed, item from orders where id = ?", undef, 5);
push @said, show(@order[0, 1, 2, 4]);
eval { $c->do("truncate customers") };
push @said, $c->state;
$c->rollback;
push @said, $c->selectrow_array("select count(*) from orders");
$c->do("copy (select id, email from customers where id < 3 order by id) to stdout");
my ($copied, $line) = "";
while ($c->pg_getcopydata($line) >= 0) { $copied .= $line }
push @said, join " ", split " ", $copied;
$c->do("copy scratch (word) from stdin");
$c->pg_putcopydata("driver-perl\n") for 1 .. 1000;
$c->pg_putcopyend;
push @said, $c->selectrow_array("select count(*) from scratch where word = ?", undef, "driver-perl");
$c->rollback;
# What it asks the catalogue.
my @columns = map { $_->[3] } @{ $c->column_info(undef, "public", "customers", "%")->fetchall_arrayref };
die "@columns" unless "@columns" eq "id name email card country born notes";
die unless $c->primary_key(undef, "public", "customers");
$c->disconnect;
print join(" | ", @said), "\n";
