s.aggregate_id = $1::text AND s.aggregate_type = $2::text AND s.tenant_id = $3::uuid AND s.kind = 0
