-- The stream is at version $14.
    UPDATE {schema}.streams s
    SET version = s.version + {count}, recorded_at = greatest(s.recorded_at, clock_timestamp())
    WHERE {is_stream} AND s.version = $14::bigint AND NOT {is_repeat}
    RETURNING s.stream_no, $14::bigint AS base, s.recorded_at
