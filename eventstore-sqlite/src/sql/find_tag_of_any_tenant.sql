SELECT tag_no, counts, tenant_id FROM eventbus_tags WHERE tag = ?1
