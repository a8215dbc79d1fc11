import { invalid, options, string } from '../check.js';
import { SpkvError } from '../errors.js';
import { type Automaton, buildAutomaton } from './automaton.js';
import { writeUtf8 } from './characters.js';
import { regexPattern } from './regex.js';
import { schemaGrammar } from './schema.js';
import type { JsonSchema } from './schema-keywords.js';

/** What a text shall be like: JSON that fits a schema, or what a regular expression describes as a whole. */
export type ConstraintSource = { jsonSchema: JsonSchema } | { regex: string };

const MAX_REGEX = 1 << 16;

/** Errors: INVALID_ARGUMENT, UNSUPPORTED. */
export function compile(source: ConstraintSource): Automaton {
  try {
    return buildAutomaton('regex' in source ? [regexPattern(source.regex, 'regex', writeUtf8, { whole: true })] : schemaGrammar(source.jsonSchema));
  } catch (error) {
    if (error instanceof RangeError) throw new SpkvError('UNSUPPORTED', 'The constraint is nested too deep', { cause: error });
    throw error;
  }
}

/** Errors: INVALID_ARGUMENT. What the source says is checked when it is compiled. */
export function checkSource(given: ConstraintSource): ConstraintSource {
  const { jsonSchema, regex } = options<{ jsonSchema?: JsonSchema; regex?: string }>(given, 'constraint', ['jsonSchema', 'regex']);
  if ((jsonSchema === undefined) === (regex === undefined)) throw invalid('either jsonSchema or regex', 'constraint', given);
  if (regex !== undefined) {
    if (string(regex, 'regex').length > MAX_REGEX) throw invalid(`at most ${MAX_REGEX} characters`, 'regex', regex);
    return { regex };
  }
  if (typeof jsonSchema !== 'boolean' && (jsonSchema === null || typeof jsonSchema !== 'object' || Array.isArray(jsonSchema))) {
    throw invalid('a JSON schema', 'jsonSchema', jsonSchema);
  }
  return { jsonSchema: jsonSchema! };
}
