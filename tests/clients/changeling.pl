# Connects, then executes something else with the connection still open: usage HOST PORT USER.
use Socket;
$^F = 255;
my ($host, $port, $user) = @ARGV;
my $body = pack("N", 196608) . "user\0$user\0database\0shop\0\0";
socket(my $s, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
connect($s, sockaddr_in($port, inet_aton($host))) or die "connect: $!";
syswrite($s, pack("N", length($body) + 4) . $body);
$| = 1; print "connected\n";
exec("/bin/sleep", "5") or die;
