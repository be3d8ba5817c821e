-- The stream has no events yet.
    INSERT INTO {schema}.streams (aggregate_id, aggregate_type, version)
    SELECT $1::text, $2::text, cardinality($3::uuid[]) FROM bound
    ON CONFLICT DO NOTHING
    RETURNING 0::bigint AS base
