"""What a person asks of a spool: `status`, the `audit` of silent events, the `facts` of the report and its `page`."""
