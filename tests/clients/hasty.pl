# Connects, says who it is, and is gone: usage HOST PORT USER TAG.
use Socket;
my ($host, $port, $user) = @ARGV;
my $body = pack("N", 196608) . "user\0$user\0database\0shop\0\0";
socket(my $s, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
connect($s, sockaddr_in($port, inet_aton($host))) or die "connect: $!";
syswrite($s, pack("N", length($body) + 4) . $body);
