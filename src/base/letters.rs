//! Characters that are no letters: what turns the direction of text, and what nobody sees.

/// Whether a character turns the direction of the text around it (Unicode's property Bidi_Control).
pub fn turns_text(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether nothing is seen of a character that is neither a blank nor a control character: it turns text, joins or parts
/// letters, or marks something for programs.
pub fn is_unseen(c: char) -> bool {
    turns_text(c)
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_text_is_unseen_and_letters_and_blanks_are_neither() {
        let turning: Vec<char> = ('\0'..=char::MAX).filter(|c| turns_text(*c)).collect();
        assert!(turning.len() == 12 && turning.iter().all(|c| is_unseen(*c)), "{turning:?}");
        let unseen = ('\0'..=char::MAX).filter(|c| is_unseen(*c));
        assert!(unseen.into_iter().all(|c| !c.is_alphanumeric() && !c.is_whitespace() && !c.is_control()));
    }
}
