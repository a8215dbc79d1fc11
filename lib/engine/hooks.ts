/**
 * What somebody wants to be told by, so that it harms nobody: of one that throws, or whose promise fails, the process
 * is warned once, and all goes on.
 */
export function guarded<T>(name: string, hook: ((record: T) => unknown) | undefined): (record: T) => void {
  let warned = false;
  const warn = (error: unknown) => {
    if (warned) return;
    warned = true;
    const [reason, detail] = error instanceof Error ? [error.message, error.stack] : [String(error), undefined];
    process.emitWarning(`${name} has failed, and spkv goes on: ${reason}`, { type: 'SpkvWarning', code: 'SPKV_HOOK', ...(detail !== undefined && { detail }) });
  };
  return (record) => {
    try {
      const result = hook?.(record);
      if (result !== undefined) Promise.resolve(result).catch(warn);
    } catch (error) {
      warn(error);
    }
  };
}
