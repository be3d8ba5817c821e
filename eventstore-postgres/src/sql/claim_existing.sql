-- The stream has events.
    UPDATE {schema}.streams s
    SET version = s.version + {count}, recorded_at = greatest(s.recorded_at, clock_timestamp())
    WHERE {is_stream} AND s.version > 0 AND NOT {is_repeat}
    RETURNING s.stream_no, s.version - {count} AS base, s.recorded_at
