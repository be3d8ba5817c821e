UPDATE eventbus_tags SET counts = ?2 WHERE tag_no = ?1
