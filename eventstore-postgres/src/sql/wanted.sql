($3::text[] IS NULL OR (SELECT s.aggregate_type FROM {schema}.streams s WHERE s.stream_no = e.stream_no) = ANY ($3::text[]))
    AND ($4::text[] IS NULL OR e.event_type = ANY ($4::text[]))
    AND ($5::uuid IS NULL OR (SELECT s.tenant_id FROM {schema}.streams s WHERE s.stream_no = e.stream_no) = $5::uuid)
