-- The stream has no events yet.
    INSERT INTO {schema}.streams (aggregate_id, aggregate_type, version)
    VALUES ($1::text, $2::text, cardinality($3::uuid[]))
    ON CONFLICT DO NOTHING
    RETURNING 0::bigint AS base
