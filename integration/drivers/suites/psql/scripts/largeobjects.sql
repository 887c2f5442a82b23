\! printf 'what is large' > /tmp/pgkennel-drivers-lo
\lo_import /tmp/pgkennel-drivers-lo 'a comment'
SELECT count(*) FROM pg_largeobject_metadata;
SELECT convert_from(lo_get(:LASTOID), 'UTF8');
\lo_unlink :LASTOID
SELECT lo_from_bytea(4711, '\x00ff');
SELECT lo_get(4711);
BEGIN;
SELECT lo_open(4711, 131072) AS fd \gset
SELECT lowrite(:fd, 'abc');
SELECT lo_close(:fd);
COMMIT;
SELECT lo_get(4711);
\lo_export 4711 /tmp/pgkennel-drivers-lo
\! cat /tmp/pgkennel-drivers-lo
SELECT lo_unlink(4711);
