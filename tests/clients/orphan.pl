# Forks twice and ends; the grandchild waits until it is an orphan, then becomes psql: usage HOST PORT USER.
my ($host, $port, $user) = @ARGV;
exit 0 if fork;
exit 0 if fork;
select(undef, undef, undef, 0.3);
exec("/usr/bin/psql", "-XAt", "-h", $host, "-p", $port, "-U", $user, "-d", "shop", "-c", "select 1") or die;
