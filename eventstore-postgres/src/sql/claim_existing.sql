-- The stream has events.
    UPDATE {schema}.streams s
    SET version = s.version + cardinality($3::uuid[])
    WHERE s.aggregate_id = $1::text AND s.aggregate_type = $2::text AND s.version > 0
    RETURNING s.version - cardinality($3::uuid[]) AS base
