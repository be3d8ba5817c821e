UPDATE eventbus_handler_shards SET left_types = json_patch(left_types, ?2) WHERE handler = ?1
