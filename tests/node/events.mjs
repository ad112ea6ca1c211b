/** ktx's events as a Node program writes them: strict zod schemas, by hand, with nothing taken from the JSON Schema. */
export function schemas(z) {
  const text = z.string();
  const flag = z.boolean();
  const count = z.number().int().nonnegative();
  const time = z.number().nonnegative();
  const detail = z.string().max(1000).optional();
  const errorClass = text.optional();
  const outcome = z.enum(["ok", "error"]);
  const common = {
    cliVersion: text, nodeVersion: text, osPlatform: text, osRelease: text, arch: text,
    runtime: z.enum(["node", "daemon-py"]), isCi: flag,
  };
  const event = (fields) => z.object({ ...common, ...fields }).strict();
  const steps = [
    "project", "runtime", "models", "embeddings", "secrets", "databases", "sources", "context", "agents", "demo-tour",
  ];
  return {
    install_first_run: event({}),
    command: event({
      commandPath: z.array(text).min(1), durationMs: time, outcome: z.enum(["ok", "error", "aborted"]), errorClass,
      errorDetail: detail, flagsPresent: z.record(text, flag), hasProject: flag, projectGroupAttached: flag,
    }),
    setup_step: event({
      step: z.enum(steps), outcome: z.enum(["completed", "skipped", "abandoned"]), durationMs: time, errorDetail: detail,
    }),
    connection_added: event({ driver: text, isDemoConnection: flag }),
    connection_test: event({
      driver: text, isDemoConnection: flag, outcome, errorClass, errorDetail: detail, durationMs: time,
      serverVersion: text.optional(),
    }),
    project_stack_snapshot: event({
      connectors: z.array(z.object({ driver: text, isDemo: flag }).strict()), connectionCount: count, hasSl: flag,
      hasWiki: flag, hasMcp: flag, hasManagedRuntime: flag,
    }),
    ingest_completed: event({
      driver: text, isDemoConnection: flag, schemaCount: count, tableCount: count, columnCount: count,
      rowsBucket: z.enum(["<10k", "<100k", "<1M", "<10M", ">=10M"]), durationMs: time, outcome, errorClass,
      errorDetail: detail,
    }),
    scan_completed: event({
      driver: text, tableCount: count, columnCount: count, inferredFkCount: count, declaredFkCount: count,
      durationMs: time, outcome, errorClass, errorDetail: detail,
    }),
    sl_validate_completed: event({
      sourceCount: count, modelCount: count, validationErrorCount: count, outcome, errorClass, durationMs: time,
    }),
    sl_query_completed: event({
      mode: z.enum(["compile", "execute"]), referencedSourceCount: count, referencedDimensionCount: count,
      referencedMeasureCount: count, durationMs: time, outcome, errorClass,
    }),
    sql_completed: event({
      driver: text, isDemoConnection: flag, queryVerb: z.enum(["select", "explain", "show", "with", "other"]),
      referencedTableCount: count, durationMs: time, outcome, errorClass,
    }),
    wiki_query_completed: event({ queryLength: count, resultCount: count, durationMs: time, outcome }),
    mcp_request_completed: event({
      toolName: text, outcome, durationMs: time, errorClass, sampleRate: z.literal(1), mcpClientName: text.optional(),
      mcpClientVersion: text.optional(),
    }),
    daemon_started: event({
      daemonVersion: text, pythonVersion: text, runtimeVersion: text, startupDurationMs: time,
    }),
    daemon_stopped: event({ reason: z.enum(["signal", "request", "crash"]), uptimeMs: time }),
    sl_plan_completed: event({
      outcome, stage: z.enum(["parse", "resolve", "compile", "transpile"]), errorClass, durationMs: time,
      sourceCount: count, joinCount: count,
    }),
    sql_gen_completed: event({ outcome, dialect: text, errorClass, durationMs: time }),
    query_history_filter_completed: event({
      dialect: text, consideredRoleCount: count, excludedRoleCount: count, parseFailedCount: count, outcome,
    }),
  };
}
