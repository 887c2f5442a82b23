GRANT ALL ON SCHEMA public TO replicator;
GRANT CREATE ON DATABASE app TO replicator;
