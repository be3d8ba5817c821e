-- Any version: inserts or updates the stream's row in one step, so there is no conflict.
    INSERT INTO {schema}.streams AS s (aggregate_id, aggregate_type, version)
    VALUES ($1::text, $2::text, cardinality($3::uuid[]))
    ON CONFLICT (aggregate_id, aggregate_type) DO UPDATE SET version = s.version + excluded.version
    RETURNING s.version - cardinality($3::uuid[]) AS base
