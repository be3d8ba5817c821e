-- The stream has no events yet.
    INSERT INTO {schema}.streams AS s (aggregate_id, aggregate_type, tenant_id, version, recorded_at)
    VALUES ($1::text, $2::text, $3::uuid, {count}, clock_timestamp())
    ON CONFLICT DO NOTHING
    RETURNING s.stream_no, 0::bigint AS base, s.recorded_at
