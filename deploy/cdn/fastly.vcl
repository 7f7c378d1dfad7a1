# Fastly, as VCL snippets by subroutine. Not tried on Fastly; it follows varnish.vcl, which is tested.
# Fastly itself obeys stale-while-revalidate and stale-if-error in the origin's Cache-Control.

sub vcl_recv {
  #FASTLY recv
  if (req.method != "GET" && req.method != "HEAD") {
    error 405;
  }
  set req.url = querystring.remove(req.url);
  # Only paths that the publisher writes. No reader can make the store answer something else that the cache keeps for everybody.
  if (req.url !~ "^/v1(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*)+/?$") {
    error 404;
  }
  unset req.http.Authorization;
  unset req.http.Cookie;
  unset req.http.X-Amz-Content-Sha256;
  unset req.http.X-Amz-Date;
  unset req.http.X-Amz-Expected-Bucket-Owner;
  unset req.http.X-Amz-Request-Payer;
  unset req.http.X-Amz-Security-Token;
  unset req.http.X-Forwarded-Host;
  unset req.http.X-HTTP-Method;
  unset req.http.X-HTTP-Method-Override;
  unset req.http.X-Method-Override;
  unset req.http.X-Original-URL;
  unset req.http.X-Rewrite-URL;
  set req.url = regsub(req.url, "^(/v1/[^/]+/)$", "\1index.html");
  set req.enable_range_on_pass = true;
  return(lookup);
}

sub vcl_fetch {
  #FASTLY fetch
  if (beresp.status >= 500 && stale.exists) {
    return(deliver_stale);
  }
  # Never Parquet: it is already compressed, and readers of ranges need its length.
  if (beresp.http.Content-Type ~ "^(application/json|text/)") {
    set beresp.gzip = true;
  }
  return(deliver);
}

sub vcl_deliver {
  #FASTLY deliver
  if (resp.http.Content-Type ~ "^text/html") {
    set resp.http.Content-Security-Policy = "default-src 'none'; script-src 'self' 'sha256-Baw/1o0n2smHlw9mXEsM0CHYvnYIZuYdMsj+ILIJfh0='; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
  }
  set resp.http.X-Content-Type-Options = "nosniff";
  set resp.http.Access-Control-Allow-Origin = "*";
  set resp.http.Access-Control-Expose-Headers = "ETag, Content-Range, Accept-Ranges, Content-Length";
  return(deliver);
}
