-- The stream is at version $13.
    UPDATE {schema}.streams s
    SET version = s.version + cardinality($3::uuid[])
    WHERE s.aggregate_id = $1::text AND s.aggregate_type = $2::text AND s.version = $13::bigint
    RETURNING $13::bigint AS base
