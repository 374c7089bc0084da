echo "schema is made"
