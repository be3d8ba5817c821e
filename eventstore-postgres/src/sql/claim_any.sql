-- Any version: inserts or updates the stream's row in one step, so there is no conflict.
    INSERT INTO {schema}.streams AS s (aggregate_id, aggregate_type, tenant_id, version, recorded_at)
    VALUES ($1::text, $2::text, $3::uuid, {count}, clock_timestamp())
    ON CONFLICT (aggregate_id, aggregate_type, tenant_id, kind) DO UPDATE
    SET version = s.version + excluded.version, recorded_at = greatest(s.recorded_at, excluded.recorded_at)
    WHERE NOT {is_repeat}
    RETURNING s.stream_no, s.version - {count} AS base, s.recorded_at
