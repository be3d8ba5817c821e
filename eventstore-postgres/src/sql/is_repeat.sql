EXISTS (
        SELECT FROM unnest({ids}) new(event_id)
        WHERE (SELECT true FROM {schema}.events o WHERE o.event_id = new.event_id AND o.stream_no = s.stream_no LIMIT 1))
