e.event_type, e.schema_version, e.has_sealed_fields, e.payload
