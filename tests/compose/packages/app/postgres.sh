set -e
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
test -s $PGDATA/PG_VERSION || initdb --auth-local=trust --auth-host=scram-sha-256 --pwfile=/run/secrets/password >/dev/null
grep -q "all all all" $PGDATA/pg_hba.conf || echo "host all all all scram-sha-256" >>$PGDATA/pg_hba.conf
exec postgres -c listen_addresses=* -c unix_socket_directories=/tmp
