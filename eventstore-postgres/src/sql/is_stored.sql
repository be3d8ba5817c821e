(SELECT true FROM {schema}.events o WHERE o.event_id = new.event_id AND o.stream_no = h.stream_no LIMIT 1)
