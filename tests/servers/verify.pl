# Verifies every signature of the messages named, with keys from a file instead of the name service.
use strict;
use warnings;
use Mail::DKIM::DNS;
use Mail::DKIM::Verifier;
use Net::DNS;

my %keys;
open(my $file, '<', shift @ARGV) or die "no keys: $!";
while (my $line = <$file>) {
    chomp $line;
    my ($name, $text) = split /\t/, $line, 2;
    $keys{lc $name} = $text if defined $text;
}

sub published {
    my ($name) = @_;
    my $text = $keys{lc $name};
    return unless defined $text;
    return Net::DNS::RR->new(owner => $name, type => 'TXT', txtdata => [unpack('(A255)*', $text)]);
}

{
    no warnings 'redefine';
    *Mail::DKIM::DNS::query = sub { published($_[0]) };
    *Mail::DKIM::DNS::query_async = sub {
        my ($name, undef, %how) = @_;
        my @found = published($name);
        return sub { $how{Callbacks}{Success} ? $how{Callbacks}{Success}->(@found) : @found };
    };
}

my $wrong = 0;
for my $path (@ARGV) {
    my $verifier = Mail::DKIM::Verifier->new;
    open(my $message, '<:raw', $path) or die "$path: $!";
    while (my $line = <$message>) {
        $line =~ s/\r?\n\z//;
        $verifier->PRINT("$line\015\012");
    }
    $verifier->CLOSE;
    my @signatures = $verifier->signatures;
    for my $signature (@signatures) {
        next if $signature->result eq 'pass';
        print "$path: ", $signature->result_detail, "\n";
        $wrong = 1;
    }
    unless (@signatures) {
        print "$path: not signed\n";
        $wrong = 1;
    }
}
exit $wrong;
