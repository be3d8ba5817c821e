INSERT INTO eventbus_streams (stream_no, version, recorded_at, tenant_id, aggregate_id, aggregate_type)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
