# Each visit is a row of the database and a count in the cache.
use IO::Socket::INET;
$SIG{TERM} = sub { exit 0 };
open my $file, '<', $ENV{PGPASSWORD_FILE} or die $!;
$ENV{PGPASSWORD} = <$file>;
my $server = IO::Socket::INET->new(LocalPort => 8000, Listen => 9, ReuseAddr => 1) or die $@;
while (my $client = $server->accept) {
    my ($path) = <$client> =~ m{^GET (\S+)} or next;
    while (<$client>) { last if /^\r?\n$/ }
    my $text = $path eq '/health' ? "healthy\n" : visit($path);
    print $client "HTTP/1.0 200 OK\r\nContent-Length: ", length $text, "\r\n\r\n$text";
    close $client;
}

sub visit {
    my ($path) = @_;
    my $redis = IO::Socket::INET->new(PeerAddr => $ENV{REDIS}, Timeout => 5) or return "$@\n";
    print $redis "INCR visits\r\n";
    my $count = <$redis> =~ s/[:\r\n]//gr;
    my $rows = qx(psql -qAtc "insert into visits default values; select count(*) from visits");
    return "cache $count database $rows";
}
