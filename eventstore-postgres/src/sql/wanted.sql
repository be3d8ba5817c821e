($3::text[] IS NULL OR e.aggregate_type = ANY ($3::text[]))
    AND ($4::text[] IS NULL OR e.event_type = ANY ($4::text[]))
    AND ($5::uuid IS NULL OR e.tenant_id = $5::uuid)
