SELECT tag_no, counts FROM eventbus_tags WHERE tag = ?1 AND tenant_id = ?2
