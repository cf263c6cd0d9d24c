# The body of a page: perl get.pl HOST:PORT PATH
use IO::Socket::INET;
my $sock = IO::Socket::INET->new(PeerAddr => $ARGV[0], Timeout => 5) or die "connect: $@";
print $sock "GET $ARGV[1] HTTP/1.0\r\nHost: web\r\n\r\n";
local $/;
my ($head, $body) = split /\r\n\r\n/, <$sock>, 2;
die "$head\n" unless $head =~ m{^HTTP/1\.\d 200 };
print $body;
